-- Metric: paying_users_last_30d
-- Description: Users with at least one payment within the 30 days that end with the metric date
-- Data Type: card

-- Who left the window and who stayed is not in yesterday's number: the whole window is counted.
SELECT COUNT(DISTINCT user_id) AS paying_users
FROM payments
WHERE paid_at >= %(metric_date)s - INTERVAL 29 DAY
  AND paid_at < %(metric_date)s + INTERVAL 1 DAY
