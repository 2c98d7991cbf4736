"""Traces of a sidecar, as the OpenTelemetry Collector receives them."""
