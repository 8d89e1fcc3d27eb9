"""From a checked recipe to a torchdistill box that is ready to train."""
