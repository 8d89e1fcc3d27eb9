"""The lens on two models in anybody's training loop, one call for the whole loss."""
