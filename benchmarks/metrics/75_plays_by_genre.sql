-- Metric: plays_by_genre
-- Description: Games started on the metric date, by genre
-- Data Type: ranking

-- Set-based: it runs once for all dates asked for, at night for one.
WITH counted AS (
    -- Counted before the join. SQL_BIG_RESULT: sort instead of filling a temporary table.
    SELECT SQL_BIG_RESULT game_id, DATE(played_at) AS day, COUNT(*) AS plays
    FROM game_plays
    WHERE played_at >= %(start_date)s
      AND played_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY game_id, DATE(played_at)
), by_genre AS (
    SELECT day, genre, CAST(SUM(plays) AS SIGNED) AS plays
    FROM counted
    JOIN games ON games.id = counted.game_id
    GROUP BY day, genre
)
SELECT day AS metric_date, ROW_NUMBER() OVER (PARTITION BY day ORDER BY plays DESC, genre) AS `rank`, genre, plays
FROM by_genre
ORDER BY day, `rank`
