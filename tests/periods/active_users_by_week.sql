-- sql/active_users_by_week.sql
-- Description: Users with at least one activity in the ISO week, Monday to Sunday
-- Data Type: card
-- Period: week
SELECT COUNT(DISTINCT user_id) AS active_users, DATE_FORMAT(%(metric_date)s, '%x-W%v') AS iso_week
FROM user_activity
WHERE happened_at >= %(period_start)s
  AND happened_at < %(metric_date)s + INTERVAL 1 DAY
