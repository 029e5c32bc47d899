"""Readers of recordings, and their preparation into record stores."""
