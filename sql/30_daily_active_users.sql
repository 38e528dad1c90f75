-- Metric: daily_active_users
-- Title: Active users
-- Tags: users
-- Description: Users with at least one activity on the metric date
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'daily_active_users' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.active_users')) AS SIGNED) < 0

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date, created_at)
SELECT
    'daily_active_users' AS metrics,
    'card' AS data_type,
    JSON_ARRAY('active_users') AS f_list,
    JSON_OBJECT('active_users', COUNT(DISTINCT user_id)) AS value_list,
    %(metric_date)s AS metric_date,
    NOW() AS created_at
FROM user_activity
WHERE happened_at >= %(metric_date)s
  AND happened_at < %(metric_date)s + INTERVAL 1 DAY
ON DUPLICATE KEY UPDATE
    data_type = VALUES(data_type),
    f_list = VALUES(f_list),
    value_list = VALUES(value_list),
    updated_at = NOW();
