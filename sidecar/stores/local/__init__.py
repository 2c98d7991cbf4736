"""Local mode: shares of limits, the journal, and the return to Redis."""
