"""Instruction data: from rows in a file to batches with supervised tokens."""
