-- Metric: total_users_after_cutoff
-- Title: Users since the cutoff
-- Tags: users
-- Description: Users who signed up on or after the cutoff date, up to the end of the metric date
-- Data Type: card
-- Check: SELECT today.value_list, day_before.value_list AS fell_from FROM bi_metrics AS today JOIN bi_metrics AS day_before ON day_before.metrics = today.metrics AND day_before.metric_date = %(metric_date)s - INTERVAL 1 DAY WHERE today.metrics = 'total_users_after_cutoff' AND today.metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(today.value_list, '$.total_users')) AS SIGNED) < CAST(JSON_UNQUOTE(JSON_EXTRACT(day_before.value_list, '$.total_users')) AS SIGNED)

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('total_users') AS f_list,
        JSON_OBJECT('total_users',
            CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.total_users')) AS SIGNED)
            + (SELECT COUNT(*)
               FROM users
               WHERE created_at >= GREATEST(%(metric_date)s, %(cutoff_date)s)
                 AND created_at < %(metric_date)s + INTERVAL 1 DAY)
        ) AS value_list
    -- Yesterday's row. Without one that is final, the initial file runs instead.
    FROM bi_metrics
    WHERE metrics = 'total_users_after_cutoff'
      AND metric_date = %(metric_date)s - INTERVAL 1 DAY
)
SELECT 'total_users_after_cutoff', d.data_type, d.f_list, d.value_list, %(metric_date)s
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
