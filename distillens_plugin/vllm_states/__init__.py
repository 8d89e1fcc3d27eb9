"""What runs inside a vLLM process that holds the teacher; loads nothing else of this package."""
