"""Reading a model: its layers, its unembedding, its residual streams."""
