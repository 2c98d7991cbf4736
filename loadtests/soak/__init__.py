"""The soak: mixed traffic with faults for minutes, then a check of what remains at rest."""
