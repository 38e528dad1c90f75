-- sql/revenue_month_over_month.sql
-- Description: Payments of the month against the month before; while it runs, against the same days of it
-- Data Type: card
-- Period: month
WITH months AS (
    SELECT
        (SELECT COALESCE(SUM(amount), 0.00)
         FROM payments
         WHERE paid_at >= %(period_start)s
           AND paid_at < %(as_of)s + INTERVAL 1 DAY) AS revenue,
        -- A whole month is compared with the whole month before. On 30 March that is all of February, too.
        (SELECT COALESCE(SUM(amount), 0.00)
         FROM payments
         WHERE paid_at >= %(period_start)s - INTERVAL 1 MONTH
           AND paid_at < IF(%(as_of)s = %(metric_date)s,
                            DATE(%(period_start)s),
                            DATE(%(as_of)s) - INTERVAL 1 MONTH + INTERVAL 1 DAY)) AS month_before
)
SELECT revenue, month_before, ROUND(100 * (revenue - month_before) / NULLIF(month_before, 0), 1) AS change_percent
FROM months
