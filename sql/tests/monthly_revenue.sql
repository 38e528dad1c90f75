-- Test: monthly_revenue
-- Description: the last second of January belongs to it, and a month without payments has its row
-- Expect 2025-01-31: {"revenue": 30.00, "payments": 3, "paying_users": 2}
-- Expect 2025-02-27: none
-- Expect 2025-02-28: {"revenue": 0.00, "payments": 0, "paying_users": 0}
INSERT INTO payments (user_id, amount, paid_at) VALUES
    (1, 5.00, '2025-01-01 00:00:00'), (1, 5.00, '2025-01-15 12:00:00'), (2, 20.00, '2025-01-31 23:59:59'),
    (2, 40.00, '2025-03-01 00:00:00');
