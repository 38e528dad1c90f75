INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH RECURSIVE hours AS (
    SELECT 0 AS hour
    UNION ALL
    SELECT hour + 1 FROM hours WHERE hour < 23
), counted AS (
    SELECT HOUR(played_at) AS hour, COUNT(*) AS plays
    FROM game_plays
    WHERE played_at >= %(metric_date)s
      AND played_at < %(metric_date)s + INTERVAL 1 DAY
    GROUP BY HOUR(played_at)
), d AS (
    SELECT
        'timeseries' AS data_type,
        JSON_ARRAY('hour', 'plays') AS f_list,
        CONCAT('[', GROUP_CONCAT(
            JSON_OBJECT('hour', hours.hour, 'plays', COALESCE(counted.plays, 0)) ORDER BY hours.hour
        ), ']') AS value_list,
        %(metric_date)s AS metric_date
    FROM hours
    LEFT JOIN counted ON counted.hour = hours.hour
)
SELECT 'plays_by_hour', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE data_type = d.data_type, f_list = d.f_list, value_list = d.value_list;
