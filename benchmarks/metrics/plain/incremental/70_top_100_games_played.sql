INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH counted AS (
    SELECT game_id, COUNT(*) AS plays
    FROM game_plays
    WHERE played_at >= %(metric_date)s - INTERVAL 29 DAY
      AND played_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY game_id
), ranked AS (
    SELECT game_id, title, plays, ROW_NUMBER() OVER (ORDER BY plays DESC, game_id) AS place
    FROM counted
    JOIN games ON games.id = counted.game_id
), d AS (
    SELECT
        'ranking' AS data_type,
        JSON_ARRAY('rank', 'game_id', 'title', 'plays') AS f_list,
        -- GROUP_CONCAT, because JSON_ARRAYAGG promises no order. Without any game: an empty list.
        CONCAT('[', COALESCE(GROUP_CONCAT(
            JSON_OBJECT('rank', place, 'game_id', game_id, 'title', title, 'plays', plays) ORDER BY place
        ), ''), ']') AS value_list
    FROM ranked
    WHERE place <= 100
)
SELECT 'top_100_games_played', d.data_type, d.f_list, d.value_list, %(metric_date)s
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
