"""Deferred jobs in this process: running them, and sending their webhooks."""
