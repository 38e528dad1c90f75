-- Metric: revenue_last_30d
-- Description: Payments within the 30 days that end with the metric date, to the cent
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'revenue_last_30d' AND metric_date = %(metric_date)s AND CAST(JSON_VALUE(value_list, '$.revenue') AS DECIMAL(20,2)) < 0

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH per_day AS (
    -- The dates asked for, so that a day without payments has its row too.
    SELECT day, 0.00 AS revenue
    FROM JSON_TABLE(%(dates)s, '$[*]' COLUMNS (day DATE PATH '$')) AS asked
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
), d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('revenue') AS f_list,
        JSON_OBJECT('revenue', revenue) AS value_list,
        day AS metric_date
    FROM rolling
    WHERE day >= %(start_date)s
)
SELECT 'revenue_last_30d', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE
    data_type = d.data_type, f_list = d.f_list, value_list = d.value_list, updated_at = CURRENT_TIMESTAMP;
