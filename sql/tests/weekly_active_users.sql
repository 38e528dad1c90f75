-- Test: weekly_active_users
-- Description: a user counts once a week, and Monday begins the next one
-- Expect 2025-01-18: none
-- Expect 2025-01-19: {"active_users": 2}
-- Expect 2025-01-26: {"active_users": 1}
INSERT INTO user_activity (user_id, happened_at) VALUES
    (1, '2025-01-12 23:59:59'), (1, '2025-01-13 00:00:00'), (1, '2025-01-17 12:00:00'), (2, '2025-01-19 23:59:59'),
    (3, '2025-01-20 00:00:00');
