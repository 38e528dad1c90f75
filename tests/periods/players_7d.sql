-- sql/players_7d.sql
-- Description: Users who played within the 7 days that end with the metric date, from a column that holds UTC
-- Data Type: card
-- Period: 7 days
SELECT COUNT(DISTINCT user_id) AS players
FROM game_plays
WHERE played_at >= %(period_start_utc)s
  AND played_at < %(day_end_utc)s
