"""Models in safetensors files: codes, scales and recipes, with all that is needed to decode them anywhere."""

from __future__ import annotations

from narrowgauge.nn.files.description import Description, describe
from narrowgauge.nn.files.restore import load
from narrowgauge.nn.files.save import export, save_tensors
from narrowgauge.nn.files.tensors import load_tensors

__all__ = ["Description", "describe", "export", "load", "load_tensors", "save_tensors"]
