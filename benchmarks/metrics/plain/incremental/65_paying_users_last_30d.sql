INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('paying_users') AS f_list,
        -- Who left the window and who stayed is not in yesterday's number: the whole window is counted.
        JSON_OBJECT('paying_users', COUNT(DISTINCT user_id)) AS value_list,
        %(metric_date)s AS metric_date
    FROM payments
    WHERE paid_at >= %(metric_date)s - INTERVAL 29 DAY
      AND paid_at < %(metric_date)s + INTERVAL 1 DAY
)
SELECT 'paying_users_last_30d', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
