"""A real Kubernetes API server on this machine, without nodes: `make cluster`."""
