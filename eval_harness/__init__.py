"""Generate and score instruction-following benchmarks (ROUGE-L), with vLLM or transformers."""
