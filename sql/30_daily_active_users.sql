-- Metric: daily_active_users
-- Description: Users with at least one activity on the metric date
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'daily_active_users' AND metric_date = %(metric_date)s AND CAST(JSON_VALUE(value_list, '$.active_users') AS SIGNED) < 0

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('active_users') AS f_list,
        JSON_OBJECT('active_users', COUNT(DISTINCT user_id)) AS value_list,
        %(metric_date)s AS metric_date
    FROM user_activity
    WHERE happened_at >= %(metric_date)s
      AND happened_at < %(metric_date)s + INTERVAL 1 DAY
)
SELECT 'daily_active_users', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE
    data_type = d.data_type, f_list = d.f_list, value_list = d.value_list, updated_at = CURRENT_TIMESTAMP;
