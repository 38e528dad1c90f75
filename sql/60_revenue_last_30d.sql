-- Metric: revenue_last_30d
-- Title: Revenue, last 30 days
-- Unit: EUR
-- Tags: money
-- Description: Payments within the 30 days that end with the metric date, to the cent
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'revenue_last_30d' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.revenue')) AS DECIMAL(20,2)) < 0

-- Set-based: it runs once for all dates asked for, at night for one.
WITH RECURSIVE asked AS (
    -- The dates asked for, so that a day without payments has its row too.
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), per_day AS (
    SELECT day, 0.00 AS revenue FROM asked
    UNION ALL
    -- From 29 days before start_date: the first date asked for has a whole window behind it.
    SELECT DATE(paid_at), SUM(amount)
    FROM payments
    WHERE paid_at >= %(start_date)s - INTERVAL 29 DAY
      AND paid_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY DATE(paid_at)
), rolling AS (
    -- RANGE over day numbers and not ROWS: days without a row before start_date still count as days.
    SELECT day, SUM(SUM(revenue)) OVER (ORDER BY TO_DAYS(day) RANGE BETWEEN 29 PRECEDING AND CURRENT ROW) AS revenue
    FROM per_day
    GROUP BY day
)
SELECT day AS metric_date, CAST(revenue AS DECIMAL(20,2)) AS revenue
FROM rolling
WHERE day >= %(start_date)s
