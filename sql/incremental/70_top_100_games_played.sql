-- Metric: top_100_games_played
-- Title: Top 100 games
-- Tags: games
-- Description: The 100 games played most within the 30 days that end with the metric date
-- Data Type: ranking
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'top_100_games_played' AND metric_date = %(metric_date)s AND (JSON_LENGTH(value_list) > 100 OR JSON_EXTRACT(value_list, '$[0].rank') <> 1)
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'top_100_games_played' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$[0].plays')) AS SIGNED) < CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$[1].plays')) AS SIGNED)

WITH counted AS (
    SELECT game_id, COUNT(*) AS plays
    FROM game_plays
    WHERE played_at >= %(metric_date)s - INTERVAL 29 DAY
      AND played_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY game_id
)
SELECT ROW_NUMBER() OVER (ORDER BY plays DESC, game_id) AS `rank`, game_id, title, plays
FROM counted
JOIN games ON games.id = counted.game_id
ORDER BY `rank`
LIMIT 100
