"""Usage events: building and reading them. Pure."""
