-- Test: total_revenue
-- Description: a payment at midnight belongs to the day that begins
-- Expect 2025-01-14: {"revenue": 10.00}
-- Expect 2025-01-15: {"revenue": 30.00}
INSERT INTO payments (user_id, amount, paid_at) VALUES
  (1, 10.00, '2025-01-14 23:59:59'), (2, 20.00, '2025-01-15 00:00:00'), (3, 5.00, '2025-01-16 00:00:00');
