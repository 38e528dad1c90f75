-- Metric: arpu_last_30d
-- Description: Revenue of the last 30 days for each user after the cutoff, rounded to the cent; null without users
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'arpu_last_30d' AND metric_date = %(metric_date)s AND CAST(JSON_VALUE(value_list, '$.arpu') AS DECIMAL(20,2)) < 0

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('arpu') AS f_list,
        JSON_OBJECT('arpu', ROUND(
            CAST(JSON_VALUE(revenue.value_list, '$.revenue') AS DECIMAL(20,2))
            / NULLIF(CAST(JSON_VALUE(users.value_list, '$.total_users') AS SIGNED), 0), 2
        )) AS value_list,
        %(metric_date)s AS metric_date
    -- Rows of the same date: the prefix 80 puts this file after those that write them.
    FROM bi_metrics AS revenue
    JOIN bi_metrics AS users ON users.metric_date = revenue.metric_date
    WHERE revenue.metrics = 'revenue_last_30d'
      AND users.metrics = 'total_users_after_cutoff'
      AND revenue.metric_date = %(metric_date)s
)
SELECT 'arpu_last_30d', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE
    data_type = d.data_type, f_list = d.f_list, value_list = d.value_list, updated_at = CURRENT_TIMESTAMP;
