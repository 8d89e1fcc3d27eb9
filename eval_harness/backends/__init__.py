"""What can generate: vLLM, and transformers as the fallback."""
