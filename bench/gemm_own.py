"""Our products of quantised matrices as competitors of the suite `gemm`, and the plain product that is the baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from narrowgauge.bench.gemm_check import Rounding
from narrowgauge.bench.gemm_competitor import (
    Competitor,
    Make,
    float8_rounding,
    matrix_unit,
    moved,
    out_bytes,
    out_dtype,
)
from narrowgauge.bench.gemm_inputs import Inputs
from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.kernels import pack, quantize
from narrowgauge.kernels._block_gemm_plan import ELEMENTS
from narrowgauge.kernels._gemm_plan import PROMOTE_EVERY
from narrowgauge.kernels.block_gemm import BLOCK_GEMM
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.kernels.op import Op
from narrowgauge.kernels.swizzle import SWIZZLE
from narrowgauge.kernels.weight_only import WEIGHT_ONLY_GEMM

BASELINE = "torch.mm"
SWIZZLED, SWIZZLED_SINCE = "128x4", (10, 0)
"""How scales lie for the matrix units that take them, and the compute capability since which they do."""
Pair = tuple[str, str]


def scheme_pair(text: str) -> Pair:
    """ "e4m3fn/row" for both sides, or "e4m3fn/1x128,e4m3fn/128x128" for x and w. ValueError for other texts."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2 or not all(parts):
        raise ValueError(f"scheme: got {text!r}, accepted: one scheme, or those of x and w with a comma between them")
    specs = [parse(part) for part in parts]
    for spec in specs:
        if spec.stochastic:
            raise ValueError(f"scheme: got {spec}, accepted: schemes that round to nearest")
    return str(specs[0]), str(specs[-1])


def pair_name(pair: Pair) -> str:
    """The schemes of x and w, one if they are the same."""
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} · {pair[1]}"


def baseline(inputs: Inputs) -> Competitor:
    """x · wᵀ by torch, of values that are not quantised."""
    x, w = inputs.x, inputs.w
    unit = str(x.dtype).removeprefix("torch.")
    note = f"x @ w.t(), {unit}"
    traffic = moved(x, w, out=out_bytes(inputs, x.dtype))
    # Where few rows have K split among multiprocessors, torch lets the parts be added up in 16 bits.
    rounding = Rounding(narrow=0.0 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps)
    return Competitor(lambda: torch.mm(x, w.t()), inputs.operands(), rounding, (x.dtype,), traffic, unit, note)


def scaled_gemm(pair: Pair, units: tuple[str, ...], inputs: Inputs) -> Competitor:
    """`scaled_gemm` of the codes of x and w."""
    args = (*inputs.pair("x", pair[0]), *inputs.pair("w", pair[1]), *pair, None, out_dtype(inputs.device))
    return _competitor(GEMM, args, pair, units, inputs, "scaled_gemm of codes")


def quantized_gemm(pair: Pair, units: tuple[str, ...], inputs: Inputs) -> Competitor:
    """The same with the quantisation of x: what a layer does in its forward pass, its weight's codes being kept."""
    args = (*inputs.pair("x", pair[0]), *inputs.pair("w", pair[1]), *pair, None, out_dtype(inputs.device))
    two_level = parse(pair[0]).two_level

    def call() -> Tensor:
        q = quantize(inputs.x, pair[0])
        product: Tensor = GEMM(q.codes, q.factors() if two_level else q.scale, *args[2:])
        return product

    return _competitor(GEMM, args, pair, units, inputs, "quantize of x, then scaled_gemm", call=call)


def block_gemm(pair: Pair, units: tuple[str, ...], inputs: Inputs) -> Competitor:
    """`block_scaled_gemm`: codes of 4 bits two a byte; scales in the order of the matrix units that take them."""
    sides = [inputs.coded(side, scheme) for side, scheme in zip("xw", pair, strict=True)]
    packed = all(q.scheme.element.bits == 4 for q in sides) and inputs.problem.k % 2 == 0
    swizzled = inputs.device.type == "cuda" and torch.cuda.get_device_capability(inputs.device) >= SWIZZLED_SINCE
    args: list[object] = []
    for q in sides:
        codes = pack(q.codes, 4) if packed else q.codes
        scale = SWIZZLE(q.scale, SWIZZLED) if swizzled else q.scale
        args += [codes, scale, q.outer if q.scheme.two_level else None]
    args += [*pair, packed, None, out_dtype(inputs.device)]
    note = f"block_scaled_gemm of codes{', two a byte' if packed else ''}"
    return _competitor(BLOCK_GEMM, args, pair, units, inputs, note)


def weight_only(scheme: str, units: tuple[str, ...], inputs: Inputs) -> Competitor:
    """`weight_only_gemm`: x as it is, codes of w packed where they have fewer than 8 bits."""
    q = inputs.coded("w", scheme)
    bits = q.scheme.element.bits
    codes, outer = pack(q.codes, bits) if bits < 8 else q.codes, q.outer if q.scheme.two_level else None
    args = [inputs.x, codes, q.scale, outer, None, scheme, inputs.problem.k, bits < 8, None, out_dtype(inputs.device)]
    note = f"weight_only_gemm{f', w packed to {bits} bits' if bits < 8 else ''}"
    # A 16-bit x has the weight's decoded values rounded to its type, where they are no numbers of it.
    narrow = 0.0 if inputs.x.dtype == torch.float32 else torch.finfo(inputs.x.dtype).eps / 2
    return _competitor(WEIGHT_ONLY_GEMM, args, (None, scheme), units, inputs, note, narrow)


def _competitor(
    op: Op, args: Sequence[Any], pair: tuple[str | None, str], units: tuple[str, ...], inputs: Inputs, note: str,
    narrow: float = 0.0, call: Callable[[], Tensor] | None = None,
) -> Competitor:  # fmt: skip
    """An op on these arguments, or `call`, which counts as the same work."""
    if inputs.device.type != "cpu" and (reason := op.unsupported(*args)) is not None:
        raise ValueError(reason)
    unit = matrix_unit(None if pair[0] is None else parse(pair[0]), parse(pair[1]), units)
    rounding = float8_rounding(inputs.device, unit, inputs.problem.k, PROMOTE_EVERY)
    return Competitor(
        partial(op, *args) if call is None else call, inputs.operands(*pair), replace(rounding, narrow=narrow),
        (out_dtype(inputs.device),), op.cost(*args).bytes, unit, note,
        tuple(arg for arg in args if isinstance(arg, Tensor)),
    )  # fmt: skip


def own_makers(
    pairs: Sequence[Pair], weights: Sequence[str], units: tuple[str, ...], *, with_quantize: bool
) -> dict[str, Make]:
    """Name → what makes the competitor; the baseline first. weights: schemes of w for products with a plain x."""
    makers: dict[str, Make] = {BASELINE: baseline}
    for pair in pairs:
        makers[f"scaled_gemm {pair_name(pair)}"] = partial(scaled_gemm, pair, units)
        if is_block_pair(pair):
            makers[f"block_scaled_gemm {pair_name(pair)}"] = partial(block_gemm, pair, units)
        if with_quantize:
            makers[f"quantize + scaled_gemm {pair_name(pair)}"] = partial(quantized_gemm, pair, units)
    for scheme in weights:
        makers[f"weight_only_gemm {scheme}"] = partial(weight_only, scheme, units)
    return makers


def is_block_pair(pair: Pair) -> bool:
    """Whether `block_scaled_gemm` takes these schemes: two of OCP MX, or NVFP4 with itself."""
    specs = [parse(scheme) for scheme in pair]
    return all(map(_in_matrix_units, specs)) and (pair[0] == pair[1] or not any(spec.two_level for spec in specs))


def _in_matrix_units(spec: Scheme) -> bool:
    fmt = spec.format
    return isinstance(fmt, BlockFormat) and fmt.name.startswith(("mx", "nvfp4")) and spec.element.name in ELEMENTS


def ops_of(pairs: Sequence[Pair], weights: Sequence[str]) -> list[Op]:
    """The operators that the makers call."""
    blocks = [BLOCK_GEMM] if any(map(is_block_pair, pairs)) else []
    return [GEMM, *blocks, *([WEIGHT_ONLY_GEMM] if weights else [])]
