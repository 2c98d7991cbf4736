"""Mutants: one realistic bug each, which the tests of its room must find."""
