-- Test: arpu_last_30d
-- Description: null without users, then the revenue per user, rounded to the cent
-- Expect 2025-01-14: {"arpu": null}
-- Expect 2025-01-15: {"arpu": 3.33}
INSERT INTO users (id, created_at) VALUES (1, '2025-01-15'), (2, '2025-01-15'), (3, '2025-01-15');
INSERT INTO payments (amount, paid_at) VALUES (10.00, '2025-01-14 12:00:00');
