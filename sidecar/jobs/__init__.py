"""Runs deferred jobs, and sends webhooks when they end."""
