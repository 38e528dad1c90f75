-- Test: revenue_by_fiscal_month
-- Description: a fiscal month is from the 26th to the 25th, and one without payments has its row
-- Expect 2025-01-25: {"payments": 2, "revenue": 30.00}
-- Expect 2025-01-31: none
-- Expect 2025-02-25: {"payments": 0, "revenue": 0.00}
-- Expect 2025-03-25: {"payments": 1, "revenue": 4.00}
INSERT INTO payments (amount, paid_at) VALUES
    (1.00, '2024-12-25 23:59:59'), (10.00, '2024-12-26 00:00:00'), (20.00, '2025-01-25 23:59:59'),
    (4.00, '2025-02-26 00:00:00');
