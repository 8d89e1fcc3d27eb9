"""Pages and figures about models and runs: lens maps, reports of training."""
