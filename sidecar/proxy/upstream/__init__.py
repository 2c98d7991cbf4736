"""The upstream side of the data port: connections and their pool."""
