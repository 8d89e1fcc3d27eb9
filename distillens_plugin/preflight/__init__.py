"""All that can be checked about a recipe before anything expensive starts."""
