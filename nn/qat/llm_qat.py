"""LLM-QAT: symmetric min-max integers for weights (per output channel), activations and the KV cache (per token).

    s = amax / (2^(b−1) − 1),  x̂ = s · RN(x / s),  backward identity; nothing clips

which is the scheme `intB/row`. Keys and values are quantised where they enter the cache, so the attention of the
training already sees what decoding will read. The released code adds 1e-6 to amax and s (here a row of zeros has scale
1), stops the gradient of values beyond ±2, and takes mid-rise levels for weights of 2 bits.

Liu et al., arXiv 2305.17888, sections 2.2 and 2.3.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from narrowgauge.kernels import fake_quantize
from narrowgauge.nn.qat.checks import check_bits
from narrowgauge.nn.qat.scheme_ste import SchemeActivation, SchemeWeight

KV_LAYERS = ("k_proj", "v_proj")
BITS = range(2, 9)


class LLMQATWeight(SchemeWeight):
    """Weights of `bits` (2 to 8), one scale per output channel."""

    def __init__(self, bits: int = 4) -> None:
        check_bits("bits", bits, BITS)
        super().__init__(f"int{bits}/row")


class LLMQATActivation(SchemeActivation):
    """Activations, keys or values of `bits` (2 to 8), one scale per token (row of the last axis)."""

    def __init__(self, bits: int = 8) -> None:
        check_bits("activation_bits", bits, BITS)
        super().__init__(f"int{bits}/row")


def quantize_kv(x: Tensor, bits: int = 8) -> Tensor:
    """Keys or values [..., features] as the cache holds them: `intB/row`, differentiable by the identity."""
    check_bits("kv_bits", bits, BITS)
    return fake_quantize(x, f"int{bits}/row")


def quantize_kv_outputs(model: nn.Module, bits: int = 8, layers: Collection[str] = KV_LAYERS) -> list[RemovableHandle]:
    """Hooks `quantize_kv` on the outputs of every module whose last name part is in `layers`; for models whose linear
    layers are not under QAT. Returns the handles (`handle.remove()`). ValueError if no module has such a name."""
    check_bits("kv_bits", bits, BITS)

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return quantize_kv(output, bits)

    found = [module for name, module in model.named_modules() if name.rpartition(".")[2] in layers]
    if not found:
        raise ValueError(f"model: no module is called {', '.join(layers)}")
    return [module.register_forward_hook(hook) for module in found]
