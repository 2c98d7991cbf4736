"""The arithmetic: pure functions and plain values. No clock, no I/O, no randomness."""
