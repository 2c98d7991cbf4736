"""The books: recorded events, held against the counters in Redis or against another plan file."""
