-- Metric: plays_by_hour
-- Title: Plays by hour
-- Tags: games
-- Description: Games started in each hour of the metric date, 24 points
-- Data Type: timeseries
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'plays_by_hour' AND metric_date = %(metric_date)s AND JSON_LENGTH(value_list) <> 24

-- Set-based: it runs once for all dates asked for, at night for one.
WITH RECURSIVE asked AS (
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), hours AS (
    SELECT 0 AS hour
    UNION ALL
    SELECT hour + 1 FROM hours WHERE hour < 23
), counted AS (
    SELECT DATE(played_at) AS day, HOUR(played_at) AS hour, COUNT(*) AS plays
    FROM game_plays
    WHERE played_at >= %(start_date)s
      AND played_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY DATE(played_at), HOUR(played_at)
)
SELECT asked.day AS metric_date, hours.hour, COALESCE(counted.plays, 0) AS plays
FROM asked
CROSS JOIN hours
LEFT JOIN counted ON counted.day = asked.day AND counted.hour = hours.hour
ORDER BY asked.day, hours.hour
