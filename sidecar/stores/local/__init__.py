"""Limits while Redis is unavailable: local shares, the journal, and the way back."""
