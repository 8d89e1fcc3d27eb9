"""torchdistill: the registry keys, and what its boxes call."""
