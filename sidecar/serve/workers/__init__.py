"""Several processes on one address: workers that serve, and a supervisor that runs them."""
