"""A whole run: from a checked recipe to a folder with a finished student."""
