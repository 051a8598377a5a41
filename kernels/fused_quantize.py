"""fused_quantize: what stands in front of a quantised product (a rotation, a norm, an activation, a residual sum) and
quantize, in one read and one write where the tile allows it.

    y = prologue(x, other, weight)        float32, one rounding per operation (`narrowgauge.kernels.prologues`)
    codes, scale, outer = quantize(y)     as kernels/quantize.py defines it, of the float32 y

`torch.ops.narrowgauge.fused_quantize(x, other, weight, prologue, scheme, seed, offset, eps, keep_values)
-> (codes, scale, outer, values)`
  x       [..., K] float32 / float16 / bfloat16, any strides; other: alike, for the prologues that take two
  weight  of norms [K]; signs of rotations, ±1, [K] or [N]
  codes   [..., K] contiguous; rotations fill the last block up with zeros, so K becomes a multiple of N there
  values  [..., K] in the dtype of x, empty unless keep_values: x + other where the prologue begins with that sum (it is
          rounded to this dtype before anything else), else y
Every implementation gives the same bits: sums of squares are those of integers, exponentials are polynomials, and no
product is fused with a sum. On GPUs tiles that no program holds take a launch for their maxima, and the prologue is
computed again; rules that search for a clipping point are not served there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.tiles import rows_cols
from narrowgauge.kernels._fused_quantize_cases import compile_cases, samples
from narrowgauge.kernels._fused_quantize_checks import check_call
from narrowgauge.kernels._fused_quantize_torch import fused_quantize_torch
from narrowgauge.kernels._fused_quantize_triton import fused_quantize_triton
from narrowgauge.kernels.layout import layout_for, scale_dtype
from narrowgauge.kernels.op import Cost, Exact, Op, register
from narrowgauge.kernels.prologues import PROLOGUES, get_prologue
from narrowgauge.kernels.quantize import QUANTIZE
from narrowgauge.kernels.tensor import QuantizedTensor, canonical, check_seed

Results = tuple[Tensor, Tensor, Tensor, Tensor]


def _fake(
    x: Tensor, other: Tensor | None, weight: Tensor | None, prologue: str, scheme: str, seed: int, offset: int,
    eps: float, keep_values: bool,
) -> Results:  # fmt: skip
    chosen, spec = check_call(x, other, weight, prologue, scheme, eps), parse(scheme)
    shape = (*x.shape[:-1], chosen.width(x.shape[-1]))
    return (
        x.new_empty(shape, dtype=layout_for(spec).code_dtype),
        x.new_empty(spec.scale_shape(shape), dtype=scale_dtype(spec)),
        x.new_empty((), dtype=torch.float32),
        x.new_empty(shape if keep_values else (0,)),
    )


def _reference(
    x: Tensor, other: Tensor | None, weight: Tensor | None, prologue: str, scheme: str, seed: int, offset: int,
    eps: float, keep_values: bool,
) -> Results:  # fmt: skip
    chosen = check_call(x, other, weight, prologue, scheme, eps)
    if chosen.adds and other is not None:
        x = (x.float() + other.float()).to(x.dtype)
    rows, cols = rows_cols(tuple(x.shape))
    second = None if other is None else other.float().numpy().reshape(rows, cols)
    with np.errstate(all="ignore"):
        result = chosen.define(
            x.float().numpy().reshape(rows, cols), second, None if weight is None else weight.float().numpy(), eps
        )
    y = torch.from_numpy(np.ascontiguousarray(result)).view(*x.shape[:-1], result.shape[-1])
    codes, scale, outer = QUANTIZE.reference(y, scheme, seed, offset)
    kept = (x if chosen.adds else y.to(x.dtype)) if keep_values else x.new_empty(0)
    return codes, scale, outer, kept


def _unsupported(
    x: Tensor, other: Tensor | None, weight: Tensor | None, prologue: str, scheme: str, seed: int, offset: int,
    eps: float, keep_values: bool,
) -> str | None:  # fmt: skip
    rule = parse(scheme).rule
    if rule.searches:
        return (
            f"rule {rule.value!r} searches the result for a clipping point, which would have to be in memory: quantize "
            "the values of a call with another scheme, or take one of the rules amax, floor, ceil, rceil, even, pow2, "
            "static"
        )
    return None


def _cost(
    x: Tensor, other: Tensor | None, weight: Tensor | None, prologue: str, scheme: str, seed: int, offset: int,
    eps: float, keep_values: bool,
) -> Cost:  # fmt: skip
    spec, chosen = parse(scheme), get_prologue(prologue)
    width = chosen.width(x.shape[-1])
    shape = (*x.shape[:-1], width)
    elements = int(np.prod(shape))
    scale_bytes = int(np.prod(spec.scale_shape(shape))) * spec.scale_bits / 8
    read = x.nbytes + (0 if other is None else other.nbytes) + (0 if weight is None else weight.nbytes)
    kept = elements * x.element_size() if keep_values else 0
    steps = {"copy": 1, "relu_squared": 2, "rmsnorm": 4, "silu": 20, "gelu_tanh": 25, "gelu": 32}
    per_element = steps.get(chosen.kind, chosen.block.bit_length())
    return Cost(flops=float((2 + per_element) * elements), bytes=read + elements + scale_bytes + kept)


FUSED_QUANTIZE = register(
    Op(
        name="fused_quantize",
        schema=(
            "(Tensor x, Tensor? other, Tensor? weight, str prologue, str scheme, int seed, int offset, float eps, "
            "bool keep_values) -> (Tensor codes, Tensor scale, Tensor outer, Tensor values)"
        ),
        reference=_reference,
        torch_impl=fused_quantize_torch,
        triton_impl=fused_quantize_triton,
        fake=_fake,
        samples=samples,
        cost=_cost,
        bound=Exact(),
        compile_cases=compile_cases,
        unsupported=_unsupported,
    )
)


def fused_quantize(
    x: Tensor,
    scheme: Scheme | str,
    *,
    prologue: str,
    other: Tensor | None = None,
    weight: Tensor | None = None,
    signs: Tensor | None = None,
    eps: float = 1e-5,
    seed: int | None = None,
    offset: int = 0,
    return_values: bool = False,
) -> QuantizedTensor | tuple[QuantizedTensor, Tensor]:
    """`quantize(prologue(x))` in one pass, without a gradient.

    x: [..., K] float32, float16 or bfloat16. prologue: a name of `narrowgauge.kernels.prologues.PROLOGUES`:
    `hadamard16` … `hadamard128` (signs: ±1, [K] or [N], none for the plain transform), `rmsnorm` (weight [K], eps),
    `add_rmsnorm` (other: the residual stream), `silu_mul` (other: the gate's other half), `gelu`, `gelu_tanh`,
    `relu_squared`, `add` (other). other: shape and dtype of x. seed, offset: as for `quantize`.

    return_values: also what was quantised, in the dtype of x; of `add` and `add_rmsnorm`, the sum x + other, which is
    the new residual stream. The codes are those of the float32 result, rounded once.

    Raises ValueError and TypeError, naming the argument.
    """
    chosen = get_prologue(prologue)
    if signs is not None and (chosen.weighted != "signs" or weight is not None):
        accepted = ", ".join(name for name, known in PROLOGUES.items() if known.weighted == "signs")
        raise ValueError(f"signs: taken, in the place of a weight, by {accepted}; got them with {prologue!r}")
    text = canonical(scheme)
    number = check_seed(text, seed)
    parts = (None if part is None else part.detach() for part in (x, other, weight if signs is None else signs))
    codes, scale, outer, values = FUSED_QUANTIZE(*parts, prologue, text, number, offset, eps, return_values)
    result = QuantizedTensor(codes, scale, outer, text, x.dtype)
    return (result, values) if return_values else result


__all__ = ["FUSED_QUANTIZE", "fused_quantize"]
