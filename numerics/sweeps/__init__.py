"""Formats × granularities × tensors: one table, one page."""
