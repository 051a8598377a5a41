"""A Llama block of the proportions of large ones (MLP ratio 2.69), its gradients, and what of memory is alive."""

from __future__ import annotations

import gc

import torch
from torch import Tensor, nn

from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.model import rope_tables

B, T, H = 2, 64, 256
UNIT = 2 * B * T * H
"""Bytes of one bfloat16 hidden state."""
SIZES = LlamaConfig(dim=H, num_layers=1, num_heads=4, num_kv_heads=4, ffn_dim=688, max_seq_len=T)


class LlamaBlock(nn.Module):
    """A block that owns its rotary tables, as the model does."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.block = Llama(SIZES, seed=0).layers[0].to(dtype)
        cos, sin = rope_tables(T, SIZES.head_dim, SIZES.rope_theta)
        self.register_buffer("cos", cos.to(dtype))
        self.register_buffer("sin", sin.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H]."""
        out: Tensor = self.block(x, self.cos, self.sin)
        return out


def hidden_state(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """An input of the block, in the graph as the output of another would be."""
    x = torch.randn(B, T, H, generator=torch.Generator().manual_seed(1))
    return x.to(dtype).requires_grad_() * 1


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gradients of ‖model(x)‖²/2 by name, that of x under "x"."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    out = model(x)
    found = torch.autograd.grad(out, [x, *parameters], out.detach())
    return dict(zip(("x", *names), found, strict=True))


def alive() -> dict[int, int]:
    """Bytes of the memory of every tensor that Python knows of, by its address."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter) and thing.layout is torch.strided:  # others have no storage
            storage = thing.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return found
