"""A leaderboard of what reproduces: ``python -m compressai_gen.leaderboard``; ``eval/protocol.md`` fixes its rules."""
