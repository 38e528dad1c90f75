INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH RECURSIVE asked AS (
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), per_day AS (
    SELECT day, 0.00 AS revenue FROM asked
    UNION ALL
    SELECT DATE(paid_at), SUM(amount)
    FROM payments
    WHERE paid_at >= %(start_date)s - INTERVAL 29 DAY
      AND paid_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY DATE(paid_at)
), rolling AS (
    SELECT day, SUM(SUM(revenue)) OVER (ORDER BY TO_DAYS(day) RANGE BETWEEN 29 PRECEDING AND CURRENT ROW) AS revenue
    FROM per_day
    GROUP BY day
), d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('revenue') AS f_list,
        JSON_OBJECT('revenue', CAST(revenue AS DECIMAL(20,2))) AS value_list,
        day AS metric_date
    FROM rolling
    WHERE day >= %(start_date)s
)
SELECT 'revenue_last_30d', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
