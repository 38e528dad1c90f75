-- Test: players_7d
-- Description: seven days of Taipei, whose day begins at 16:00 UTC
-- Expect 2025-01-15: {"players": 2}
-- Expect 2025-01-16: {"players": 1}
INSERT INTO game_plays (user_id, played_at) VALUES
    (1, '2025-01-08 15:59:59'), (2, '2025-01-08 16:00:00'), (3, '2025-01-15 15:59:59'), (3, '2025-01-10 00:00:00'),
    (4, '2025-01-16 16:00:00');
