"""Hostile clients next to a normal and a critical one: what the sidecar keeps, for each attack."""
