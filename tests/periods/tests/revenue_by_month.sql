-- Test: revenue_by_month
-- Description: a month that has ended is divided by all of its days
-- Expect 2025-01-31: {"revenue": 31.00, "revenue_per_day": 1.00}
-- Expect 2025-02-28: {"revenue": 0.00, "revenue_per_day": 0.00}
INSERT INTO payments (amount, paid_at) VALUES
    (30.00, '2025-01-01 00:00:00'), (1.00, '2025-01-31 23:59:59'), (5.00, '2025-03-01 00:00:00');
