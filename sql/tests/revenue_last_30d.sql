-- Test: revenue_last_30d
-- Description: a payment counts on 30 dates, to the cent; a day without payments has its row
-- Expect 2025-01-15: {"revenue": 0.30}
-- Expect 2025-01-16: {"revenue": 0.30}
-- Expect 2025-02-13: {"revenue": 1.30}
-- Expect 2025-02-14: {"revenue": 1.00}
INSERT INTO payments (amount, paid_at) VALUES
    (0.10, '2025-01-15 00:00:00'), (0.20, '2025-01-15 23:59:59'), (1.00, '2025-02-13 10:00:00');
