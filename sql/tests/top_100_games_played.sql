-- Test: top_100_games_played
-- Description: a tie goes to the smaller id, a game leaves after 30 dates, an unknown game is in no ranking
-- Expect 2025-01-14: []
-- Expect 2025-01-15: [{"rank": 1, "game_id": 7, "title": "Go", "plays": 2}, {"rank": 2, "game_id": 9, "title": "Chess", "plays": 2}]
-- Expect 2025-02-13: [{"rank": 1, "game_id": 9, "title": "Chess", "plays": 3}, {"rank": 2, "game_id": 7, "title": "Go", "plays": 2}]
-- Expect 2025-02-14: [{"rank": 1, "game_id": 9, "title": "Chess", "plays": 1}]
INSERT INTO games (id, title) VALUES (7, 'Go'), (9, 'Chess'), (11, 'Never played');
INSERT INTO game_plays (game_id, played_at) VALUES
    (9, '2025-01-15 00:00:00'), (9, '2025-01-15 23:59:59'), (7, '2025-01-15 10:00:00'), (7, '2025-01-15 11:00:00'),
    (12, '2025-01-15 12:00:00'), (9, '2025-02-13 12:00:00');
