"""The dashboards with real data: a sidecar under load, a real Prometheus, and every panel's query.

`python -m loadtests.dashboards` draws them into docs/images. Tests use the same parts.
"""
