"""Wait queues, for requests that do not fit into a limit now and will soon."""
