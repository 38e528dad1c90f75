-- Metric: weekly_active_users
-- Title: Active users of the week
-- Tags: users
-- Description: Users with at least one activity in the week, Monday to Sunday
-- Data Type: card
-- Period: week
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'weekly_active_users' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.active_users')) AS SIGNED) > (SELECT MAX(id) FROM users)

SELECT COUNT(DISTINCT user_id) AS active_users
FROM user_activity
WHERE happened_at >= %(period_start)s
  AND happened_at < %(metric_date)s + INTERVAL 1 DAY
