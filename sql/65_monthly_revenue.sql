-- Metric: monthly_revenue
-- Title: Revenue of the month
-- Unit: revenue EUR
-- Tags: money
-- Description: Payments of the month, to the cent; to date while the month runs
-- Data Type: card
-- Period: month
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'monthly_revenue' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.revenue')) AS DECIMAL(20,2)) < 0
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'monthly_revenue' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.paying_users')) AS SIGNED) > CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.payments')) AS SIGNED)

SELECT
    COALESCE(SUM(amount), 0.00) AS revenue,
    COUNT(*) AS payments,
    COUNT(DISTINCT user_id) AS paying_users
FROM payments
WHERE paid_at >= %(period_start)s
  AND paid_at < %(metric_date)s + INTERVAL 1 DAY
