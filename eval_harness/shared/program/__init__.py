"""A command from its first line to its exit code."""
