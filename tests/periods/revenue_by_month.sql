-- sql/revenue_by_month.sql
-- Description: Payments of the month, to date while it runs, and per day so far
-- Data Type: card
-- Period: month
SELECT
    COALESCE(SUM(amount), 0.00) AS revenue,
    ROUND(COALESCE(SUM(amount), 0.00) / (DATEDIFF(%(as_of)s, %(period_start)s) + 1), 2) AS revenue_per_day
FROM payments
WHERE paid_at >= %(period_start)s
  AND paid_at < %(as_of)s + INTERVAL 1 DAY
