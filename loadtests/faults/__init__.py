"""Faults of Redis under load: what passes meanwhile, and whether the books agree afterwards."""
