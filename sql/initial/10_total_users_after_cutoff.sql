-- Metric: total_users_after_cutoff
-- Title: Users since the cutoff
-- Tags: users
-- Description: Users who signed up on or after the cutoff date, up to the end of the metric date
-- Data Type: card
-- Check: SELECT today.value_list, day_before.value_list AS fell_from FROM bi_metrics AS today JOIN bi_metrics AS day_before ON day_before.metrics = today.metrics AND day_before.metric_date = %(metric_date)s - INTERVAL 1 DAY WHERE today.metrics = 'total_users_after_cutoff' AND today.metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(today.value_list, '$.total_users')) AS SIGNED) < CAST(JSON_UNQUOTE(JSON_EXTRACT(day_before.value_list, '$.total_users')) AS SIGNED)

WITH RECURSIVE asked AS (
    -- The dates asked for, so that a day without any event has its row too.
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), per_day AS (
    SELECT day, 0 AS users FROM asked
    UNION ALL
    -- All days since the cutoff, also those before start_date: the first date asked for has a past.
    SELECT DATE(created_at), COUNT(*)
    FROM users
    WHERE created_at >= %(cutoff_date)s
      AND created_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY DATE(created_at)
), running AS (
    SELECT day, SUM(SUM(users)) OVER (ORDER BY day) AS total_users
    FROM per_day
    GROUP BY day
)
SELECT day AS metric_date, CAST(total_users AS SIGNED) AS total_users
FROM running
WHERE day >= %(start_date)s
