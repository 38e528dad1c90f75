-- Test: daily_active_users
-- Description: a user counts once a day, and midnight belongs to the day that begins
-- Expect 2025-01-14: {"active_users": 1}
-- Expect 2025-01-15: {"active_users": 2}
-- Expect 2025-01-16: {"active_users": 0}
INSERT INTO user_activity (user_id, happened_at) VALUES
    (1, '2025-01-14 23:59:59'), (1, '2025-01-15 00:00:00'), (2, '2025-01-15 12:00:00'), (2, '2025-01-15 12:00:01');
