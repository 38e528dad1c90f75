INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('revenue') AS f_list,
        JSON_OBJECT('revenue',
            CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.revenue')) AS DECIMAL(20,2))
            + (SELECT COALESCE(SUM(amount), 0.00)
               FROM payments
               WHERE paid_at >= %(metric_date)s
                 AND paid_at < %(metric_date)s + INTERVAL 1 DAY)
        ) AS value_list,
        %(metric_date)s AS metric_date
    FROM bi_metrics
    WHERE metrics = 'total_revenue'
      AND metric_date = %(metric_date)s - INTERVAL 1 DAY
)
SELECT 'total_revenue', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
