-- Metric: paying_users_last_30d
-- Description: Users with at least one payment within the 30 days that end with the metric date
-- Data Type: card

-- Set-based: it runs once for all dates asked for.
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
)
SELECT day AS metric_date, CAST(paying_users AS SIGNED) AS paying_users
FROM running
WHERE day BETWEEN %(start_date)s AND %(metric_date)s
