-- Metric: total_revenue
-- Title: Revenue in total
-- Unit: EUR
-- Tags: money
-- Description: All payments up to the end of the metric date, to the cent
-- Data Type: card
-- Check: SELECT today.value_list, day_before.value_list AS fell_from FROM bi_metrics AS today JOIN bi_metrics AS day_before ON day_before.metrics = today.metrics AND day_before.metric_date = %(metric_date)s - INTERVAL 1 DAY WHERE today.metrics = 'total_revenue' AND today.metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(today.value_list, '$.revenue')) AS DECIMAL(20,2)) < CAST(JSON_UNQUOTE(JSON_EXTRACT(day_before.value_list, '$.revenue')) AS DECIMAL(20,2))

WITH RECURSIVE asked AS (
    -- The dates asked for, so that a day without any event has its row too.
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), per_day AS (
    SELECT day, 0.00 AS revenue FROM asked
    UNION ALL
    -- All history, also before start_date: the first date asked for has a past.
    SELECT DATE(paid_at), SUM(amount)
    FROM payments
    WHERE paid_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY DATE(paid_at)
), running AS (
    SELECT day, SUM(SUM(revenue)) OVER (ORDER BY day) AS revenue
    FROM per_day
    GROUP BY day
)
SELECT day AS metric_date, CAST(revenue AS DECIMAL(20,2)) AS revenue
FROM running
WHERE day >= %(start_date)s
