"""Usage events: written to a durable local spool, shipped to sinks, verified and read back."""
