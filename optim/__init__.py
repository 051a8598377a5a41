"""Optimizers whose states are kept in few bits: state codecs × update rules."""

from __future__ import annotations

from narrowgauge.optim.adamw import AdamW
from narrowgauge.optim.codec import StateBytes, StateOption

__all__ = ["AdamW", "StateBytes", "StateOption"]
