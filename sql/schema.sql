-- The tables and views of BI Metrics ETL. Safe to apply again: existing tables and their rows stay as they are.
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
    updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,  -- last update
    PRIMARY KEY (id),
    UNIQUE KEY uq_metric_date (metrics, metric_date),
    KEY idx_metric_date (metric_date)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- One row per metric or helper per date: whether it is final, and what is known of its last computation.
CREATE TABLE IF NOT EXISTS bi_metric_state (
    metric       VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    metric_date  DATE NOT NULL,
    is_helper    BOOLEAN NOT NULL DEFAULT 0,  -- a file that fills a table of its own, not a row of bi_metrics
    state        ENUM('missing', 'open', 'reopened', 'waiting', 'final') NOT NULL,
    definition   CHAR(16) CHARACTER SET ascii NULL,  -- of all its files and the parameters they use; NULL: unknown
    computed_at  DATETIME NULL,  -- UTC
    milliseconds INT UNSIGNED NULL,  -- of the file's execution, which may have filled more dates
    file         VARCHAR(255) NULL,
    run_id       CHAR(16) CHARACTER SET ascii NULL,
    error        VARCHAR(1000) NULL,  -- why the last try failed; NULL after a success
    failed_at    DATETIME NULL,  -- UTC
    warning      VARCHAR(1000) NULL,  -- what `-- Warn:` and the like found, a line for each; NULL: nothing
    accepted     VARCHAR(1000) NULL,  -- the checks that failed, a line for each, and may: --accept; NULL: none
    PRIMARY KEY (metric, metric_date),
    KEY idx_date_state (metric_date, state),
    KEY idx_state_date (state, metric_date)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- One row per value that replaced a final one.
CREATE TABLE IF NOT EXISTS bi_metric_changes (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    metric      VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    metric_date DATE NOT NULL,
    changed_at  DATETIME NOT NULL,  -- UTC
    run_id      CHAR(16) CHARACTER SET ascii NULL,
    old_value   LONGTEXT NOT NULL,  -- value_list before and after, whole
    new_value   LONGTEXT NOT NULL,
    PRIMARY KEY (id),
    KEY idx_metric_date (metric, metric_date)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- One row per metric: what the header of its file says. A run writes what has changed.
CREATE TABLE IF NOT EXISTS bi_metric_headers (
    metric      VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    title       VARCHAR(255) NOT NULL,  -- the metric's name if its header has no title
    description VARCHAR(1000) NOT NULL,
    data_type   VARCHAR(50) NOT NULL,
    unit        VARCHAR(255) NOT NULL,
    owner       VARCHAR(255) NOT NULL,
    tags        VARCHAR(255) NOT NULL,  -- separated by commas
    period      VARCHAR(50) NOT NULL,  -- as in `-- Period:`; day if the header has none
    PRIMARY KEY (metric)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- For dashboards: a row per field of each card. A row of bi_metrics without a state counts as reopened.
-- value is a number; NULL if DECIMAL(65,20) cannot hold it. value_text is any value but null.
-- Of a number that is too large CAST would make the largest DECIMAL, or an error in an INSERT. So the first pattern
-- takes plain numbers that fit. The second takes the others that can be read as a DOUBLE, and their size decides.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW bi_metric_cards AS
SELECT
    metrics,
    metric_date,
    LEFT(JSON_UNQUOTE(name), 256) AS field,
    CASE WHEN json_value REGEXP '^-?([0-9]{1,45}|[0-9]{1,44}[.][0-9]*)$'
         THEN CAST(JSON_UNQUOTE(json_value) AS DECIMAL(65,20))
         WHEN json_value REGEXP '^-?[0-9]{1,200}([.][0-9]*)?([eE]([+]?[0-9]{1,2}|-[0-9]{1,3}))?$'
              AND ABS(JSON_UNQUOTE(json_value) + 0e0) < 1e45
         THEN CAST(JSON_UNQUOTE(json_value) AS DECIMAL(65,20))
    END AS value,
    CASE WHEN JSON_TYPE(json_value) <> 'NULL' THEN JSON_UNQUOTE(json_value) END AS value_text,
    COALESCE(state, 'reopened') AS state,
    COALESCE(state = 'final', FALSE) AS is_final,
    updated_at
FROM (
    SELECT m.metrics, m.metric_date, k.name, s.state, m.updated_at,
           JSON_EXTRACT(m.value_list, CONCAT('$.', k.name)) AS json_value
    FROM bi_metrics AS m
    LEFT JOIN bi_metric_state AS s ON s.metric = m.metrics AND s.metric_date = m.metric_date
    JOIN JSON_TABLE(JSON_KEYS(m.value_list), '$[*]' COLUMNS (name JSON PATH '$')) AS k
) AS each_field;

-- The same for timeseries and rankings: a row per field of each item. Items are counted from 1.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW bi_metric_items AS
SELECT
    metrics,
    metric_date,
    item,
    LEFT(JSON_UNQUOTE(name), 256) AS field,
    CASE WHEN json_value REGEXP '^-?([0-9]{1,45}|[0-9]{1,44}[.][0-9]*)$'
         THEN CAST(JSON_UNQUOTE(json_value) AS DECIMAL(65,20))
         WHEN json_value REGEXP '^-?[0-9]{1,200}([.][0-9]*)?([eE]([+]?[0-9]{1,2}|-[0-9]{1,3}))?$'
              AND ABS(JSON_UNQUOTE(json_value) + 0e0) < 1e45
         THEN CAST(JSON_UNQUOTE(json_value) AS DECIMAL(65,20))
    END AS value,
    CASE WHEN JSON_TYPE(json_value) <> 'NULL' THEN JSON_UNQUOTE(json_value) END AS value_text,
    COALESCE(state, 'reopened') AS state,
    COALESCE(state = 'final', FALSE) AS is_final,
    updated_at
FROM (
    SELECT m.metrics, m.metric_date, i.item, k.name, s.state, m.updated_at,
           JSON_EXTRACT(i.obj, CONCAT('$.', k.name)) AS json_value
    FROM bi_metrics AS m
    LEFT JOIN bi_metric_state AS s ON s.metric = m.metrics AND s.metric_date = m.metric_date
    JOIN JSON_TABLE(m.value_list, '$[*]' COLUMNS (item FOR ORDINALITY, obj JSON PATH '$')) AS i
    JOIN JSON_TABLE(JSON_KEYS(i.obj), '$[*]' COLUMNS (name JSON PATH '$')) AS k
) AS each_field;

-- A row per metric: its header, the fields of its newest row, and how many dates are in each state.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW bi_metric_catalog AS
SELECT
    h.metric,
    h.title,
    h.description,
    COALESCE(m.data_type, h.data_type) AS data_type,
    h.unit,
    h.owner,
    h.tags,
    h.period,
    m.f_list AS fields,
    s.newest_final,
    COALESCE(s.missing, 0) AS missing,
    COALESCE(s.open, 0) AS open,
    COALESCE(s.reopened, 0) AS reopened,
    COALESCE(s.waiting, 0) AS waiting,
    COALESCE(s.final, 0) AS final
FROM bi_metric_headers AS h
LEFT JOIN (SELECT metrics, MAX(metric_date) AS newest FROM bi_metrics GROUP BY metrics) AS r ON r.metrics = h.metric
LEFT JOIN bi_metrics AS m ON m.metrics = r.metrics AND m.metric_date = r.newest
LEFT JOIN (
    SELECT metric,
           MAX(CASE WHEN state = 'final' THEN metric_date END) AS newest_final,
           COUNT(CASE WHEN state = 'missing' THEN 1 END) AS missing,
           COUNT(CASE WHEN state = 'open' THEN 1 END) AS open,
           COUNT(CASE WHEN state = 'reopened' THEN 1 END) AS reopened,
           COUNT(CASE WHEN state = 'waiting' THEN 1 END) AS waiting,
           COUNT(CASE WHEN state = 'final' THEN 1 END) AS final
    FROM bi_metric_state
    GROUP BY metric
) AS s ON s.metric = h.metric;
