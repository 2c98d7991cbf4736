"""Several processes behind one address: a supervisor that serves nothing, and its workers."""
