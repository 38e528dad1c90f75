-- Metric: total_revenue
-- Title: Revenue in total
-- Unit: EUR
-- Tags: money
-- Description: All payments up to the end of the metric date, to the cent
-- Data Type: card
-- Check: SELECT today.value_list, day_before.value_list AS fell_from FROM bi_metrics AS today JOIN bi_metrics AS day_before ON day_before.metrics = today.metrics AND day_before.metric_date = %(metric_date)s - INTERVAL 1 DAY WHERE today.metrics = 'total_revenue' AND today.metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(today.value_list, '$.revenue')) AS DECIMAL(20,2)) < CAST(JSON_UNQUOTE(JSON_EXTRACT(day_before.value_list, '$.revenue')) AS DECIMAL(20,2))

SELECT
    -- A number taken from JSON is a float; cents stay exact only as DECIMAL.
    CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.revenue')) AS DECIMAL(20,2))
    + (SELECT COALESCE(SUM(amount), 0.00)
       FROM payments
       WHERE paid_at >= %(metric_date)s
         AND paid_at < %(metric_date)s + INTERVAL 1 DAY) AS revenue
-- Yesterday's row. Without one that is final, the initial file runs instead.
FROM bi_metrics
WHERE metrics = 'total_revenue'
  AND metric_date = %(metric_date)s - INTERVAL 1 DAY
