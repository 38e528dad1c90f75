-- The two tables of BI Metrics ETL. Safe to apply again: existing tables and their rows stay as they are.
-- MariaDB 10.6+ and MySQL 8.0+. InnoDB is required: a date is written completely or not at all.

-- One row a metric a date: what dashboards read.
CREATE TABLE IF NOT EXISTS bi_metrics (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,  -- upserts skip ids, so INT could run out
    metrics     VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,  -- the metric's name, as in its file name
    data_type   VARCHAR(50) NOT NULL DEFAULT 'card',  -- card, timeseries or ranking
    f_list      JSON NOT NULL,  -- names of the fields in value_list
    value_list  JSON NOT NULL,  -- card: one object; timeseries and ranking: an array of objects
    metric_date DATE NOT NULL,
    created_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    UNIQUE KEY uq_metric_date (metrics, metric_date),
    KEY idx_metric_date (metric_date)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- One row a metric a date a run: what happened, and what a run changed. It informs; nothing is decided by it.
CREATE TABLE IF NOT EXISTS bi_metric_runs (
    id           BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    run_id       CHAR(16) CHARACTER SET ascii NOT NULL,
    metric       VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    metric_date  DATE NOT NULL,
    mode         VARCHAR(20) NOT NULL,  -- initial or incremental
    file         VARCHAR(255) NOT NULL,
    fingerprint  CHAR(16) CHARACTER SET ascii NOT NULL,  -- of the file's SQL, comments and blanks aside
    row_count    INT UNSIGNED NOT NULL,
    milliseconds INT UNSIGNED NOT NULL,
    status       VARCHAR(10) NOT NULL,  -- ok or failed
    is_final     BOOLEAN NOT NULL,  -- computed after its date was over
    changes      TEXT NULL,  -- old -> new, where this run changed a row that was final
    error        VARCHAR(1000) NULL,
    created_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    KEY idx_metric_date (metric, metric_date),
    KEY idx_created_at (created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
