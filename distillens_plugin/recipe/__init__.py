"""Recipe files: read, composed, checked, and written out in full."""
