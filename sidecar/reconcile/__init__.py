"""Counters in Redis against recorded usage events, and their repair."""
