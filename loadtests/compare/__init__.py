"""Side by side: this sidecar and other gateways, one core each, the same upstream and load."""
