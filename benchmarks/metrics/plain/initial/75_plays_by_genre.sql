INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH RECURSIVE asked AS (
    SELECT DATE(%(start_date)s) AS day
    UNION ALL
    SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
), counted AS (
    SELECT SQL_BIG_RESULT game_id, DATE(played_at) AS day, COUNT(*) AS plays
    FROM game_plays
    WHERE played_at >= %(start_date)s
      AND played_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY game_id, DATE(played_at)
), ranked AS (
    SELECT
        day,
        genre,
        SUM(plays) AS plays,
        ROW_NUMBER() OVER (PARTITION BY day ORDER BY SUM(plays) DESC, genre) AS place
    FROM counted
    JOIN games ON games.id = counted.game_id
    GROUP BY day, genre
), listed AS (
    SELECT
        day,
        GROUP_CONCAT(JSON_OBJECT('rank', place, 'genre', genre, 'plays', plays) ORDER BY place) AS genres
    FROM ranked
    GROUP BY day
), d AS (
    SELECT
        'ranking' AS data_type,
        JSON_ARRAY('rank', 'genre', 'plays') AS f_list,
        CONCAT('[', COALESCE(listed.genres, ''), ']') AS value_list,
        asked.day AS metric_date
    FROM asked
    LEFT JOIN listed ON listed.day = asked.day
)
SELECT 'plays_by_genre', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
