INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
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
), d AS (
    SELECT
        'timeseries' AS data_type,
        JSON_ARRAY('hour', 'plays') AS f_list,
        CONCAT('[', GROUP_CONCAT(
            JSON_OBJECT('hour', hours.hour, 'plays', COALESCE(counted.plays, 0)) ORDER BY hours.hour
        ), ']') AS value_list,
        asked.day AS metric_date
    FROM asked
    CROSS JOIN hours
    LEFT JOIN counted ON counted.day = asked.day AND counted.hour = hours.hour
    GROUP BY asked.day
)
SELECT 'plays_by_hour', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
