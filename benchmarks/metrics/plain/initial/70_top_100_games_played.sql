INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH RECURSIVE asked AS (
    -- The dates asked for, so that a day without any event has its row too.
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
), listed AS (
    SELECT
        ranked.day,
        -- GROUP_CONCAT, because JSON_ARRAYAGG promises no order.
        GROUP_CONCAT(
            JSON_OBJECT('rank', place, 'game_id', game_id, 'title', games.title, 'plays', plays) ORDER BY place
        ) AS top
    FROM ranked
    -- LEFT, so that the server starts from the ranking and not from the games; every ranked game has a title.
    LEFT JOIN games ON games.id = ranked.game_id
    WHERE place <= 100
    GROUP BY ranked.day
), d AS (
    SELECT
        'ranking' AS data_type,
        JSON_ARRAY('rank', 'game_id', 'title', 'plays') AS f_list,
        CONCAT('[', COALESCE(listed.top, ''), ']') AS value_list,
        asked.day AS metric_date
    FROM asked
    LEFT JOIN listed ON listed.day = asked.day
)
SELECT 'top_100_games_played', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
