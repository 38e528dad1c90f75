INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH counted AS (
    SELECT game_id, COUNT(*) AS plays
    FROM game_plays
    WHERE played_at >= %(metric_date)s
      AND played_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY game_id
), ranked AS (
    SELECT genre, SUM(plays) AS plays, ROW_NUMBER() OVER (ORDER BY SUM(plays) DESC, genre) AS place
    FROM counted
    JOIN games ON games.id = counted.game_id
    GROUP BY genre
), d AS (
    SELECT
        'ranking' AS data_type,
        JSON_ARRAY('rank', 'genre', 'plays') AS f_list,
        CONCAT('[', COALESCE(GROUP_CONCAT(
            JSON_OBJECT('rank', place, 'genre', genre, 'plays', plays) ORDER BY place
        ), ''), ']') AS value_list,
        %(metric_date)s AS metric_date
    FROM ranked
)
SELECT 'plays_by_genre', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
