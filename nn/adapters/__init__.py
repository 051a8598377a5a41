"""Low-rank adapters: LoRA on plain and quantised layers, QLoRA on NF4 bases."""

from __future__ import annotations

from narrowgauge.nn.adapters.lora import LoRALinear
from narrowgauge.nn.adapters.model import (
    QLORA,
    add_lora,
    load_lora_state_dict,
    lora_parameters,
    lora_state_dict,
    merge_lora,
)

__all__ = [
    "QLORA",
    "LoRALinear",
    "add_lora",
    "load_lora_state_dict",
    "lora_parameters",
    "lora_state_dict",
    "merge_lora",
]
