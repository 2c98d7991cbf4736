"""Recorded requests against another plan file."""
