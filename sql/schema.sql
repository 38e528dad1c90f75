-- The two tables of BI Metrics ETL. Safe to apply again: existing tables and their rows stay as they are.
-- MariaDB 10.6+ and MySQL 8.0+. InnoDB is required: a date is written completely or not at all.

-- One row per metric per date: what dashboards read.
CREATE TABLE IF NOT EXISTS bi_metrics (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,  -- upserts skip ids, so INT could run out
    metrics     VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,  -- the metric's name, as in its file name
    data_type   VARCHAR(50) NOT NULL DEFAULT 'card',  -- card, timeseries or ranking
    f_list      JSON NOT NULL,  -- names of the fields in value_list
    value_list  JSON NOT NULL,  -- card: one object; timeseries and ranking: an array of objects
    metric_date DATE NOT NULL,
    created_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,  -- 1970-01-02: not final
    PRIMARY KEY (id),
    UNIQUE KEY uq_metric_date (metrics, metric_date),
    KEY idx_state (metric_date, metrics, updated_at)  -- what is not final is found without reading the values
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS bi_metric_state (
    metric       VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    metric_date  DATE NOT NULL,
    is_helper    BOOLEAN NOT NULL DEFAULT 0,
    state        ENUM('missing', 'open', 'reopened', 'waiting', 'final') NOT NULL,
    definition   CHAR(16) CHARACTER SET ascii NULL,
    computed_at  DATETIME NULL,
    milliseconds INT UNSIGNED NULL,
    file         VARCHAR(255) NULL,
    run_id       CHAR(16) CHARACTER SET ascii NULL,
    error        VARCHAR(1000) NULL,
    failed_at    DATETIME NULL,
    PRIMARY KEY (metric, metric_date),
    KEY idx_date_state (metric_date, state)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
CREATE TABLE IF NOT EXISTS bi_metric_changes (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    metric       VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    metric_date  DATE NOT NULL,
    changed_at DATETIME NOT NULL,
    run_id       CHAR(16) CHARACTER SET ascii NULL,
    old_value LONGTEXT NOT NULL,
    new_value LONGTEXT NOT NULL,
    KEY idx_metric_date (metric, metric_date)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- For dashboards: a row per field of each card, with its value as a number. is_final goes by the session's time zone;
-- a row that is marked as not final is not final in any.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW bi_metric_cards AS
SELECT
    m.metrics,
    m.metric_date,
    k.field,
    CASE WHEN JSON_TYPE(JSON_EXTRACT(m.value_list, CONCAT('$.', JSON_QUOTE(k.field))))
              IN ('INTEGER', 'UNSIGNED INTEGER', 'DECIMAL', 'DOUBLE')
         THEN CAST(JSON_UNQUOTE(JSON_EXTRACT(m.value_list, CONCAT('$.', JSON_QUOTE(k.field)))) AS DECIMAL(38,10))
    END AS value,
    m.updated_at >= m.metric_date + INTERVAL 1 DAY AS is_final,
    m.updated_at
FROM bi_metrics AS m
JOIN JSON_TABLE(JSON_KEYS(m.value_list), '$[*]' COLUMNS (field VARCHAR(256) PATH '$')) AS k;

-- The same for timeseries and rankings: a row per field of each item, which are counted from 1.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW bi_metric_items AS
SELECT
    m.metrics,
    m.metric_date,
    i.item,
    k.field,
    CASE WHEN JSON_TYPE(JSON_EXTRACT(i.obj, CONCAT('$.', JSON_QUOTE(k.field))))
              IN ('INTEGER', 'UNSIGNED INTEGER', 'DECIMAL', 'DOUBLE')
         THEN CAST(JSON_UNQUOTE(JSON_EXTRACT(i.obj, CONCAT('$.', JSON_QUOTE(k.field)))) AS DECIMAL(38,10))
    END AS value,
    JSON_UNQUOTE(JSON_EXTRACT(i.obj, CONCAT('$.', JSON_QUOTE(k.field)))) AS value_text,
    m.updated_at >= m.metric_date + INTERVAL 1 DAY AS is_final,
    m.updated_at
FROM bi_metrics AS m
JOIN JSON_TABLE(m.value_list, '$[*]' COLUMNS (item FOR ORDINALITY, obj JSON PATH '$')) AS i
JOIN JSON_TABLE(JSON_KEYS(i.obj), '$[*]' COLUMNS (field VARCHAR(256) PATH '$')) AS k;
