"""The loss terms, and the sum of them."""
