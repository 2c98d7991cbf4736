"""The comparison of the sidecar with other gateways: one core each, same upstream and load."""
