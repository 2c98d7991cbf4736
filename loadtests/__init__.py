"""Load tests of the whole product, and the comparison with other gateways."""
