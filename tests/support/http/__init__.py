"""HTTP peers for tests: clients, APIs and bytes."""
