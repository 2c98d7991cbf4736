"""The sidecar in pods of Kubernetes: its container, the patch of manifests, and the webhook.

All of it is pure, except `webhook`. A manifest is data as `documents` reads it; no function changes
its arguments.
"""
