"""keys and accounts: what Redis knows of who calls. Secrets are printed once, at creation."""
