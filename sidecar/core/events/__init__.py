"""Usage events as bytes and as values. Pure."""
