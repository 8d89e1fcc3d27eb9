"""What runs before training: the lens report, the teacher's answers, the tuned lens."""
