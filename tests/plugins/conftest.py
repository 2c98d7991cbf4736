"""Real gateways; a test is skipped if its gateway is not installed."""
