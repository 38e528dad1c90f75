-- Metric: revenue_last_30d
-- Description: Payments within the 30 days that end with the metric date, to the cent
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'revenue_last_30d' AND metric_date = %(metric_date)s AND CAST(JSON_VALUE(value_list, '$.revenue') AS DECIMAL(20,2)) < 0

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('revenue') AS f_list,
        JSON_OBJECT('revenue', CAST(
            -- A number taken from JSON is a float; cents stay exact only as DECIMAL.
            CAST(JSON_VALUE(value_list, '$.revenue') AS DECIMAL(20,2))
            -- the day that enters the window
            + (SELECT COALESCE(SUM(amount), 0.00)
               FROM payments
               WHERE paid_at >= %(metric_date)s
                 AND paid_at < %(metric_date)s + INTERVAL 1 DAY)
            -- the day that leaves it
            - (SELECT COALESCE(SUM(amount), 0.00)
               FROM payments
               WHERE paid_at >= %(metric_date)s - INTERVAL 30 DAY
                 AND paid_at < %(metric_date)s - INTERVAL 29 DAY)
            AS DECIMAL(20,2)  -- without it MySQL writes 0.00 - 0.00 as 0
        )) AS value_list,
        %(metric_date)s AS metric_date
    -- Yesterday's row. Without it no row is written.
    FROM bi_metrics
    WHERE metrics = 'revenue_last_30d'
      AND metric_date = %(metric_date)s - INTERVAL 1 DAY
)
SELECT 'revenue_last_30d', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE
    data_type = d.data_type, f_list = d.f_list, value_list = d.value_list, updated_at = CURRENT_TIMESTAMP;
