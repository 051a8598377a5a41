"""Checks of quantised layers: forward and both gradients against the contract of their recipe."""
