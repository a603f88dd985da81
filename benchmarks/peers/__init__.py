"""What others would write for the same join, each a process of its own that tells its rate."""
