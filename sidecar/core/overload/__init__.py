"""The upstream's capacity, and the requests that are shed when it is overloaded. Pure."""
