-- Test: total_users_after_cutoff
-- Description: who signs up before the cutoff does not count, on its first second does
-- Param: cutoff_date=2025-01-14
-- Expect 2025-01-13: {"total_users": 0}
-- Expect 2025-01-14: {"total_users": 1}
-- Expect 2025-01-15: {"total_users": 3}
INSERT INTO users (id, created_at) VALUES
    (1, '2025-01-13 23:59:59'), (2, '2025-01-14 00:00:00'),
    (3, '2025-01-15 00:00:00'), (4, '2025-01-15 23:59:59'), (5, '2025-01-16 00:00:00');
