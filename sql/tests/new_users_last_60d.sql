-- Test: new_users_last_60d
-- Description: a user is new on 60 dates, the first of them that of the sign-up
-- Expect 2025-01-14: {"new_users": 0}
-- Expect 2025-01-15: {"new_users": 2}
-- Expect 2025-03-15: {"new_users": 2}
-- Expect 2025-03-16: {"new_users": 0}
INSERT INTO users (id, created_at) VALUES (1, '2025-01-15 00:00:00'), (2, '2025-01-15 23:59:59');
