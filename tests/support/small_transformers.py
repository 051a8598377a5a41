"""Small models of `transformers` with random weights, from their configs: name → model in eval mode, and its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

Batch = dict[str, Tensor]


def _tokens() -> Batch:
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def llama(**sizes: Any) -> tuple[nn.Module, Batch]:
    settings: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
        "bos_token_id": None, "eos_token_id": None, "use_cache": False, **sizes,
    }  # fmt: skip
    config = transformers.LlamaConfig(**settings)
    return transformers.AutoModelForCausalLM.from_config(config), _tokens()


def gpt2() -> tuple[nn.Module, Batch]:
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None, use_cache=False,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config), _tokens()


def bert() -> tuple[nn.Module, Batch]:
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.AutoModelForMaskedLM.from_config(config), _tokens()


def vit() -> tuple[nn.Module, Batch]:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=4,
        num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return transformers.AutoModelForImageClassification.from_config(config), {
        "pixel_values": pixels,
        "labels": torch.tensor([0, 1, 2, 3]),
    }


MODELS: dict[str, Callable[[], tuple[nn.Module, Batch]]] = {"llama": llama, "gpt2": gpt2, "bert": bert, "vit": vit}


def build(name: str) -> tuple[nn.Module, Batch]:
    """The model of this name, always the same, and what it takes as keyword arguments."""
    torch.manual_seed(0)
    model, batch = MODELS[name]()
    return model.eval(), batch
