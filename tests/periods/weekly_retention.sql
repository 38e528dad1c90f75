-- sql/weekly_retention.sql
-- Description: Users by the week of their sign-up, up to 8 weeks back, and how many of them were active this week
-- Data Type: timeseries
-- Period: week
WITH RECURSIVE ages AS (
    SELECT 0 AS weeks
    UNION ALL
    SELECT weeks + 1 FROM ages WHERE weeks < 8
), cohorts AS (
    SELECT weeks, DATE(%(period_start)s) - INTERVAL weeks WEEK AS monday FROM ages
), active AS (
    SELECT DISTINCT user_id
    FROM user_activity
    WHERE happened_at >= %(period_start)s
      AND happened_at < %(metric_date)s + INTERVAL 1 DAY
)
SELECT
    cohorts.monday AS signed_up,
    cohorts.weeks,
    COUNT(users.id) AS users,
    COUNT(active.user_id) AS active_users,
    ROUND(100 * COUNT(active.user_id) / NULLIF(COUNT(users.id), 0), 1) AS active_percent
FROM cohorts
LEFT JOIN users ON users.created_at >= cohorts.monday
               AND users.created_at < cohorts.monday + INTERVAL 7 DAY
LEFT JOIN active ON active.user_id = users.id
GROUP BY cohorts.monday, cohorts.weeks
ORDER BY cohorts.weeks
