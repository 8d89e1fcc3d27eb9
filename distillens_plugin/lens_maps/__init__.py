"""What the lens reads from the layers of one model or two, as arrays."""
