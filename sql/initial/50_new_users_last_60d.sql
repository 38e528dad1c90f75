-- Metric: new_users_last_60d
-- Title: New users, last 60 days
-- Tags: users
-- Description: Users who signed up within the 60 days that end with the metric date
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'new_users_last_60d' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.new_users')) AS SIGNED) < 0

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
)
SELECT day AS metric_date, CAST(new_users AS SIGNED) AS new_users
FROM rolling
WHERE day >= %(start_date)s
