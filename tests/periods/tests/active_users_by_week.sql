-- Test: active_users_by_week
-- Description: the week of New Year is one week, of the year that has its Thursday
-- Expect 2024-12-31: none
-- Expect 2025-01-05: {"active_users": 2, "iso_week": "2025-W01"}
INSERT INTO user_activity (user_id, happened_at) VALUES
    (1, '2024-12-29 23:59:59'), (1, '2024-12-30 00:00:00'), (1, '2025-01-02 12:00:00'), (2, '2025-01-05 23:59:59'),
    (3, '2025-01-06 00:00:00');
