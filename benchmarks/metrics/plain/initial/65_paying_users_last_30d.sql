INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH RECURSIVE asked AS (
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), days AS (
    SELECT DISTINCT user_id, DATE(paid_at) AS day
    FROM payments
    WHERE paid_at >= %(start_date)s - INTERVAL 29 DAY
      AND paid_at < %(metric_date)s + INTERVAL 1 DAY
), paid AS (
    SELECT day, LEAD(day) OVER (PARTITION BY user_id ORDER BY day) AS next_day
    FROM days
), changes AS (
    -- A payment counts for 30 days, or until the user's next one.
    SELECT day, 1 AS users
    FROM paid
    UNION ALL
    SELECT LEAST(day + INTERVAL 30 DAY, COALESCE(next_day, day + INTERVAL 30 DAY)), -1
    FROM paid
    UNION ALL
    SELECT day, 0
    FROM asked
), running AS (
    SELECT day, SUM(SUM(users)) OVER (ORDER BY day) AS paying_users
    FROM changes
    GROUP BY day
), d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('paying_users') AS f_list,
        JSON_OBJECT('paying_users', running.paying_users) AS value_list,
        asked.day AS metric_date
    FROM asked
    JOIN running ON running.day = asked.day
)
SELECT 'paying_users_last_30d', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
