"""Quota Sidecar: quotas, entitlements and metering for an HTTP API."""

__version__ = "0.1.0"
