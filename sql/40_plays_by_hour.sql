-- Metric: plays_by_hour
-- Description: Games started in each hour of the metric date, 24 points
-- Data Type: timeseries
-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'plays_by_hour' AND metric_date = %(metric_date)s AND JSON_LENGTH(value_list) <> 24

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH hours AS (
    SELECT hour
    FROM JSON_TABLE('[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23]',
                    '$[*]' COLUMNS (hour INT PATH '$')) AS clock
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
        -- GROUP_CONCAT, because JSON_ARRAYAGG promises no order.
        CONCAT('[', GROUP_CONCAT(
            JSON_OBJECT('hour', hours.hour, 'plays', COALESCE(counted.plays, 0)) ORDER BY hours.hour
        ), ']') AS value_list,
        %(metric_date)s AS metric_date
    FROM hours
    LEFT JOIN counted ON counted.hour = hours.hour
)
SELECT 'plays_by_hour', d.data_type, d.f_list, d.value_list, d.metric_date
FROM d
ON DUPLICATE KEY UPDATE
    data_type = d.data_type, f_list = d.f_list, value_list = d.value_list, updated_at = CURRENT_TIMESTAMP;
