"""From instructions to prompts, from text to tokens, and from generated text to answers."""
