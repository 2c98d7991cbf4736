"""Fuzzers: `python -m tests.fuzz`. The test suite runs a short form of each."""
