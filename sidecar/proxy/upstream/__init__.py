"""The API's side of the data port: connections, and the pool that shares them out."""
