INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH d AS (
    SELECT
        'card' AS data_type,
        JSON_ARRAY('new_users') AS f_list,
        JSON_OBJECT('new_users',
            CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.new_users')) AS SIGNED)
            -- the day that enters the window
            + (SELECT COUNT(*)
               FROM users
               WHERE created_at >= %(metric_date)s
                 AND created_at < %(metric_date)s + INTERVAL 1 DAY)
            -- the day that leaves it
            - (SELECT COUNT(*)
               FROM users
               WHERE created_at >= %(metric_date)s - INTERVAL 60 DAY
                 AND created_at < %(metric_date)s - INTERVAL 59 DAY)
        ) AS value_list
    -- Yesterday's row. Without one that is final, the initial file runs instead.
    FROM bi_metrics
    WHERE metrics = 'new_users_last_60d'
      AND metric_date = %(metric_date)s - INTERVAL 1 DAY
)
SELECT 'new_users_last_60d', d.data_type, d.f_list, d.value_list, %(metric_date)s
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
