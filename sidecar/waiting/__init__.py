"""What becomes of calls that cannot be forwarded now."""
