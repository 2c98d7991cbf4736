"""Traces of sampled requests for OpenTelemetry. `request_trace` collects, `otlp` exports."""
