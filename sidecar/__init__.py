"""Quota Sidecar: turns an API into a business, one request at a time."""

__version__ = "0.1.0"
