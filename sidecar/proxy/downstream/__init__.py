"""The client side of the data port: listeners, connections and requests."""
