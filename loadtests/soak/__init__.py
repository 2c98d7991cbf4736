"""The soak: mixed traffic with faults for a long time, and a verdict on what is left at rest."""
