-- Metric: total_revenue
-- Description: All payments up to the end of the metric date, to the cent
-- Data Type: card
-- Check: SELECT today.value_list, day_before.value_list AS fell_from FROM bi_metrics AS today JOIN bi_metrics AS day_before ON day_before.metrics = today.metrics AND day_before.metric_date = %(metric_date)s - INTERVAL 1 DAY WHERE today.metrics = 'total_revenue' AND today.metric_date = %(metric_date)s AND CAST(JSON_VALUE(today.value_list, '$.revenue') AS DECIMAL(20,2)) < CAST(JSON_VALUE(day_before.value_list, '$.revenue') AS DECIMAL(20,2))

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH per_day AS (
    -- The dates asked for, so that a day without payments has its row too.
    SELECT day, 0.00 AS revenue
    FROM JSON_TABLE(%(dates)s, '$[*]' COLUMNS (day DATE PATH '$')) AS asked
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
), d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('revenue') AS f_list,
        JSON_OBJECT('revenue', revenue) AS value_list,
        day AS metric_date
    FROM running
    WHERE day >= %(start_date)s
)
SELECT 'total_revenue', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE
    data_type = d.data_type, f_list = d.f_list, value_list = d.value_list, updated_at = CURRENT_TIMESTAMP;
