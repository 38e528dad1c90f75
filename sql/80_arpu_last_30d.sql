-- Metric: arpu_last_30d
-- Title: Revenue per user, last 30 days
-- Unit: EUR
-- Tags: money
-- Description: Revenue of the last 30 days per user after the cutoff, rounded to the cent; null without users
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'arpu_last_30d' AND metric_date = %(metric_date)s AND CAST(NULLIF(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.arpu')), 'null') AS DECIMAL(20,2)) < 0

SELECT
    revenue.metric_date,
    ROUND(
        CAST(JSON_UNQUOTE(JSON_EXTRACT(revenue.value_list, '$.revenue')) AS DECIMAL(20,2))
        / NULLIF(CAST(JSON_UNQUOTE(JSON_EXTRACT(users.value_list, '$.total_users')) AS SIGNED), 0), 2
    ) AS arpu
-- Rows of the same date: the prefix 80 puts this file after those that write them.
FROM bi_metrics AS revenue
JOIN bi_metrics AS users ON users.metric_date = revenue.metric_date
WHERE revenue.metrics = 'revenue_last_30d'
  AND users.metrics = 'total_users_after_cutoff'
  AND revenue.metric_date BETWEEN %(start_date)s AND %(metric_date)s
