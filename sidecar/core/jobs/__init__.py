"""Deferred jobs: their states, times, documents and headers. Pure."""
