-- Test: weekly_retention
-- Description: who signed up eight weeks back is counted, who signed up the day before that is not
-- Expect 2025-01-19: [{"signed_up_from": "2025-01-13", "weeks": 0, "users": 2, "active_users": 1, "active_percent": 50.0}, {"signed_up_from": "2025-01-06", "weeks": 1, "users": 1, "active_users": 0, "active_percent": 0.0}, {"signed_up_from": "2024-11-18", "weeks": 8, "users": 1, "active_users": 1, "active_percent": 100.0}]
INSERT INTO users (id, created_at) VALUES
    (1, '2025-01-13 00:00:00'), (2, '2025-01-19 23:59:59'), (3, '2025-01-12 23:59:59'),
    (4, '2024-11-18 00:00:00'), (5, '2024-11-17 23:59:59');
INSERT INTO user_activity (user_id, happened_at) VALUES
    (1, '2025-01-13 00:00:00'), (1, '2025-01-14 00:00:00'), (3, '2025-01-12 23:59:59'), (4, '2025-01-19 23:59:59'),
    (5, '2025-01-15 00:00:00');
