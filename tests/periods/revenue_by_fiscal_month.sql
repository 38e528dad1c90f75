-- sql/revenue_by_fiscal_month.sql
-- Description: Payments of the fiscal month, which starts on the 26th
-- Data Type: card
-- Period: month from 26

-- Set-based: it runs once for all periods asked for, at night for one. A period without payments has its row too.
WITH periods AS (
    SELECT asked.metric_date, asked.period_start
    FROM JSON_TABLE(%(periods)s, '$[*]' COLUMNS (
        metric_date DATE PATH '$.metric_date',
        period_start DATE PATH '$.period_start'
    )) AS asked
)
SELECT
    periods.metric_date,
    COUNT(payments.id) AS payments,
    COALESCE(SUM(payments.amount), 0.00) AS revenue
FROM periods
LEFT JOIN payments ON payments.paid_at >= periods.period_start
                  AND payments.paid_at < periods.metric_date + INTERVAL 1 DAY
                  -- The first and the last day of all periods, so that the index on paid_at is used.
                  AND payments.paid_at >= %(start_date)s
                  AND payments.paid_at < %(metric_date)s + INTERVAL 1 DAY
GROUP BY periods.metric_date
