"""Statistics of the tensors of a model while it trains."""
