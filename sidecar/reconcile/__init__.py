"""Comparison of the counters in Redis with recorded usage events, and their repair."""
