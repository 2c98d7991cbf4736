"""What becomes of calls that cannot go on at once."""
