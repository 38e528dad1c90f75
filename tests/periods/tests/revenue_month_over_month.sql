-- Test: revenue_month_over_month
-- Description: a whole month is compared with the whole month before, and nothing with a month of nothing
-- Expect 2025-01-31: {"revenue": 10.00, "month_before": 0.00, "change_percent": null}
-- Expect 2025-02-28: {"revenue": 15.00, "month_before": 10.00, "change_percent": 50.0}
INSERT INTO payments (amount, paid_at) VALUES (10.00, '2025-01-31 23:59:59'), (15.00, '2025-02-01 00:00:00');
