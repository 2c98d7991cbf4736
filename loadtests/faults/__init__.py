"""Faults of Redis under load: limits while they last, counters and events afterwards."""
