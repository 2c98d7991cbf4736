"""Redis servers for tests, and references to compare stores with."""
