"""Load on the whole product: customers on four plans, and the comparison with other gateways."""
