"""AdamW whose moments are kept in few bits.

    p ← p · (1 - lr · weight_decay)
    m ← β₁ m + (1 - β₁) g          v ← β₂ v + (1 - β₂) g²
    p ← p - lr / (1 - β₁^t) · m / (sqrt(v) / sqrt(1 - β₂^t) + eps)

Arithmetic is float32 whatever the parameter's dtype; the update uses the fresh m and v, and they are rounded when they
are stored. The step itself is the operator `optimizer_step` (kernels/optimizer_step.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.elementwise import ElementwiseOptimizer
from narrowgauge.optim.options import Options, at_least_zero, check_betas
from narrowgauge.optim.rows import Numbers


class AdamW(ElementwiseOptimizer):
    """AdamW with compressed states, otherwise torch.optim.AdamW's semantics (Loshchilov & Hutter, arXiv 1711.05101).

    params: parameters, named parameters or groups of them, each float32, bfloat16 or float16, of any shape and strides.
    A group may override every option. lr: a number, or a tensor of one element. bitsandbytes_order: the decay comes
    after the step, p ← p - lr · weight_decay · p, as in bitsandbytes.

    options: `Options` (optim/options.py). state: how the moments are stored, both alike or (m, v):

    | state    | m                          | v                                | bytes per parameter |
    |----------|----------------------------|----------------------------------|---------------------|
    | log8     | companded m / √v, 8 bits   | log code, 8 bits, stochastic     | 2.047               |
    | log4     | the same, 4 bits, dither   | the same, 4 bits, dither         | 1.094               |
    | coat     | E4M3, range expanded       | E4M3, range expanded             | 2.125               |
    | fp8      | E4M3, scale per 256        | E4M3, scale per 256              | 2.031               |
    | fp8_e5m2 | E4M3, scale per 256        | E5M2, scale per 256              | 2.031               |
    | int8     | int8, scale per 128        | root of v, uint8, scale per 128  | 2.0625              |
    | dynamic8 | 8-bit dynamic tree per 256 | unsigned dynamic tree per 256    | 2.031               |
    | flash    | companded int8, per 32     | root of v, uint8, scale per 32   | 2.125               |
    | int4     | 4-bit dynamic exponent     | 4 bits, row and column maxima    | 1.031 and rows      |
    | solo     | 4-bit dynamic exponent     | 2-bit log code, stochastic       | 0.844               |
    | bf16     | bfloat16                   | bfloat16                         | 4                   |
    | bf16_sr  | bfloat16, stochastic       | bfloat16, stochastic             | 4                   |
    | fp32     | float32                    | float32                          | 8                   |

    Any number format of at most 8 bits serves as well: state=("nf4/1x128", "udynamic8/1x256"), by the text of a scheme
    or a `Scheme`, with groups 1xG of the flattened parameter (G a power of two up to 1024) and the rule amax; unsigned
    formats for v alone. A positive v never reads back as zero, whatever the format.

    `coat_paper` is coat with the paper's range instead of the authors' kernel's. kernels/moments.py defines them all.
    Every parameter is compressed, however small. A NaN or an infinite gradient reaches p as in torch's AdamW; in the
    states it stays within its group (`nonfinite` offers other policies).

    `fp32` on the CPU gives the bits of torch.optim.AdamW(fused=True), but for the last elements of a tensor whose
    number is no multiple of 16, which torch steps by other instructions, an ulp apart; the default torch.optim.AdamW
    differs from those by an ulp of the update in about one element of 10^5, because it contracts multiplications and
    additions elsewhere.

    Raises ValueError and TypeError, naming the argument, for options out of range, unknown codecs (with the nearest
    names), other parameter dtypes, and, in `step`, for sparse gradients, before anything has changed.
    """

    torch_class = torch.optim.AdamW
    unsupported = ("amsgrad", "differentiable")
    has_eco = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        bitsandbytes_order: bool = False,
        **options: Unpack[Options],
    ) -> None:
        own = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**own, "bitsandbytes_order": bitsandbytes_order}, **options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for options that a group cannot have."""
        super().check_group(group)
        check_betas(group)
        at_least_zero(group, "eps", "weight_decay")
        if not group.get("decoupled_weight_decay", True):
            raise ValueError("decoupled_weight_decay: AdamW's decay is decoupled, the state is Adam's; use Adam")

    def rule(self, group: Mapping[str, Any]) -> str:
        """`adamw`, or `adamw_after` in bitsandbytes' order."""
        return "adamw_after" if group["bitsandbytes_order"] else "adamw"

    def numbers(self, group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
        """β₁, β₂ and their corrections."""
        return adam_numbers(group, step, lr)


def adam_numbers(group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
    """The numbers of Adam's rules at step t."""
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return Numbers(lr, group["weight_decay"], beta1, beta2, group["eps"], 1.0 - beta1**step, 1.0 - beta2**step)
