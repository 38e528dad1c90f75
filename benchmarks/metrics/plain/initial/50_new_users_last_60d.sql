INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH RECURSIVE asked AS (
    -- The dates asked for, so that a day without any event has its row too.
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), per_day AS (
    SELECT day, 0 AS users FROM asked
    UNION ALL
    -- From 59 days before start_date: the first date asked for has a whole window behind it.
    SELECT DATE(created_at), COUNT(*)
    FROM users
    WHERE created_at >= %(start_date)s - INTERVAL 59 DAY
      AND created_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY DATE(created_at)
), rolling AS (
    -- RANGE over day numbers and not ROWS: days without a row before start_date still count as days.
    SELECT day, SUM(SUM(users)) OVER (ORDER BY TO_DAYS(day) RANGE BETWEEN 59 PRECEDING AND CURRENT ROW) AS new_users
    FROM per_day
    GROUP BY day
), d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('new_users') AS f_list,
        JSON_OBJECT('new_users', new_users) AS value_list,
        day AS metric_date
    FROM rolling
    WHERE day >= %(start_date)s
)
SELECT 'new_users_last_60d', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
