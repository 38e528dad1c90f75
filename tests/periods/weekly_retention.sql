-- sql/weekly_retention.sql
-- Description: Users by the week of their sign-up, up to 8 weeks back, and how many of them were active this week
-- Data Type: timeseries
-- Period: week
WITH cohorts AS (
    SELECT id, DATEDIFF(%(metric_date)s, created_at) DIV 7 AS weeks
    FROM users
    WHERE created_at >= %(period_start)s - INTERVAL 8 WEEK
      AND created_at < %(metric_date)s + INTERVAL 1 DAY
), active AS (
    SELECT DISTINCT user_id
    FROM user_activity
    WHERE happened_at >= %(period_start)s
      AND happened_at < %(metric_date)s + INTERVAL 1 DAY
)
SELECT
    DATE(%(period_start)s) - INTERVAL weeks WEEK AS signed_up_from,
    weeks,
    COUNT(*) AS users,
    COUNT(active.user_id) AS active_users,
    ROUND(100 * COUNT(active.user_id) / COUNT(*), 1) AS active_percent
FROM cohorts
LEFT JOIN active ON active.user_id = cohorts.id
GROUP BY weeks
ORDER BY weeks
