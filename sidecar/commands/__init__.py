"""Commands of the command line, one module per group. Each imports what it needs when it runs."""
