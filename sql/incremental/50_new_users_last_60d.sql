-- Metric: new_users_last_60d
-- Title: New users, last 60 days
-- Tags: users
-- Description: Users who signed up within the 60 days that end with the metric date
-- Data Type: card
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'new_users_last_60d' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.new_users')) AS SIGNED) < 0

SELECT
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
         AND created_at < %(metric_date)s - INTERVAL 59 DAY) AS new_users
-- Yesterday's row. Without one that is final, the initial file runs instead.
FROM bi_metrics
WHERE metrics = 'new_users_last_60d'
  AND metric_date = %(metric_date)s - INTERVAL 1 DAY
