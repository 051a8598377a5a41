"""Tensors by name: from distributions, checkpoints and live models."""
