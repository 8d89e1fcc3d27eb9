"""What a run keeps on disk: its folder, its models, its states."""
