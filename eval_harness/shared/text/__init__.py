"""From instructions to prompts, from text to tokens, from tokens to answers."""
