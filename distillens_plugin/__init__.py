"""DistillLens for torchdistill: align intermediate next-token distributions while distilling."""
