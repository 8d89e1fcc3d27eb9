"""A template with all shared parts of a page, for tests of these parts."""
