INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('arpu') AS f_list,
        JSON_OBJECT('arpu', ROUND(
            CAST(JSON_UNQUOTE(JSON_EXTRACT(revenue.value_list, '$.revenue')) AS DECIMAL(20,2))
            / NULLIF(CAST(JSON_UNQUOTE(JSON_EXTRACT(users.value_list, '$.total_users')) AS SIGNED), 0), 2
        )) AS value_list,
        revenue.metric_date AS metric_date
    FROM bi_metrics AS revenue
    JOIN bi_metrics AS users ON users.metric_date = revenue.metric_date
    WHERE revenue.metrics = 'revenue_last_30d'
      AND users.metrics = 'total_users_after_cutoff'
      AND revenue.metric_date = %(metric_date)s
)
SELECT 'arpu_last_30d', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
