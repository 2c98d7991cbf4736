"""Deferred jobs: states, estimates, JSON documents and header fields. Pure."""
