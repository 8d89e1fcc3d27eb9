"""Results sent to other places: Weights & Biases, the Hugging Face Hub."""
