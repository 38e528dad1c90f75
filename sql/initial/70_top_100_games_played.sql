-- Metric: top_100_games_played
-- Title: Top 100 games
-- Tags: games
-- Description: The 100 games played most within the 30 days that end with the metric date
-- Data Type: ranking
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'top_100_games_played' AND metric_date = %(metric_date)s AND (JSON_LENGTH(value_list) > 100 OR JSON_EXTRACT(value_list, '$[0].rank') <> 1)
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'top_100_games_played' AND metric_date = %(metric_date)s AND CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$[0].plays')) AS SIGNED) < CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$[1].plays')) AS SIGNED)

WITH RECURSIVE asked AS (
    -- The dates asked for.
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), per_day AS (
    -- One scan, from 29 days before start_date; counted before anything is joined.
    -- SQL_BIG_RESULT: many groups, so sort instead of filling a temporary table (10 times faster on MariaDB).
    SELECT SQL_BIG_RESULT game_id, TO_DAYS(played_at) AS day_number, NULL AS day, COUNT(*) AS plays
    FROM game_plays
    WHERE played_at >= %(start_date)s - INTERVAL 29 DAY
      AND played_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY game_id, TO_DAYS(played_at)
    UNION ALL
    -- Every game on every date asked for: a game counts for 30 days after it was played last.
    SELECT games.id, TO_DAYS(asked.day), asked.day, 0
    FROM asked
    CROSS JOIN games
), rolling AS (
    SELECT
        game_id,
        day,
        SUM(plays) OVER (
            PARTITION BY game_id ORDER BY day_number RANGE BETWEEN 29 PRECEDING AND CURRENT ROW
        ) AS plays
    FROM per_day
), ranked AS (
    SELECT game_id, day, plays, ROW_NUMBER() OVER (PARTITION BY day ORDER BY plays DESC, game_id) AS place
    FROM rolling
    WHERE day IS NOT NULL AND plays > 0
)
SELECT ranked.day AS metric_date, place AS `rank`, game_id, games.title, CAST(plays AS SIGNED) AS plays
FROM ranked
-- LEFT, so that the server starts from the ranking and not from the games; every ranked game has a title.
LEFT JOIN games ON games.id = ranked.game_id
WHERE place <= 100
ORDER BY ranked.day, place
