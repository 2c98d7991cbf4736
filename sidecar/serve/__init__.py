"""The process `sidecar serve`: its parts, and the order in which they start and stop."""
