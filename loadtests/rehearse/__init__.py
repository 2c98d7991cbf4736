"""A rolling update as the rendered manifests describe it, without a cluster: `make rehearse`."""
