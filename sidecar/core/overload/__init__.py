"""How much the API can take, and which requests are refused when it is too much. Pure."""
