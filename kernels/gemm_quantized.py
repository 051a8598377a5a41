"""scaled_gemm_quantized: the codes of a product of two quantised matrices, for the next layer's product.

    y = activation((a · scale) @ (b · scale).t() + bias)  in float32                   (kernels/gemm.py)
    codes, scale, outer = quantize(y, out_scheme, seed, offset)                        (kernels/quantize.py)

`torch.ops.narrowgauge.scaled_gemm_quantized(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, activation, out_scheme,
seed, offset) -> (codes, scale, outer)`
  a … bias, activation  as scaled_gemm takes them
  codes, scale, outer   as quantize gives them, codes contiguous [M, N]
  seed, offset          the Philox stream of `+sr` schemes (not looked at otherwise)

On a GPU the product's own kernel encodes where its tile holds whole tiles of out_scheme: `1xG` and `RxC` blocks of
powers of two up to 128, MX formats, and any scheme with a given scale (`static`). For other schemes, such as rows,
whole tensors, two-level formats and rules that search, y is written in float32 and quantised by launches of its own.
A sum that is not finite makes its tile's scale NaN; of a given scale the codes of other blocks are then those that
they would have without it, where quantize has zeros: their values are NaN either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import FloatFormat, Scheme, parse, quantize_reference
from narrowgauge.formats.tiles import spread, tile_max
from narrowgauge.kernels._gemm_cases import coded_cases
from narrowgauge.kernels._gemm_checks import check
from narrowgauge.kernels._gemm_requantise import Codes
from narrowgauge.kernels._gemm_triton import launch
from narrowgauge.kernels._quantize_torch import quantize_torch
from narrowgauge.kernels._quantize_triton import quantize_triton
from narrowgauge.kernels.dequantize import dequantize_torch
from narrowgauge.kernels.gemm import GEMM, kernel_call, reference, scaled_gemm_torch, scaled_gemm_triton, tolerance
from narrowgauge.kernels.layout import layout_for, scale_dtype
from narrowgauge.kernels.op import Cost, ErrorBound, Op, Sample, register
from narrowgauge.kernels.quantize import stored_scale

Results = tuple[Tensor, Tensor, Tensor]


def scaled_gemm_quantized_torch(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    activation: str, out_scheme: str, seed: int, offset: int,
) -> Results:  # fmt: skip
    """The CPU implementation: the product, then quantize."""
    layout_for(parse(out_scheme))
    y = scaled_gemm_torch(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, torch.float32, activation)
    return quantize_torch(y, out_scheme, seed, offset)


def scaled_gemm_quantized_triton(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    activation: str, out_scheme: str, seed: int, offset: int,
) -> Results:  # fmt: skip
    """The GPU implementation: one kernel where its tiles hold those of out_scheme, else product and quantize."""
    specs = check(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, torch.float32, activation)
    spec = parse(out_scheme)
    call = kernel_call(a, a_scale, b, b_scale, specs, bias, activation)
    codes, scale, outer = _empty(a, b, spec)
    if codes.numel() and launch(call._replace(codes=Codes(spec, _prepared(scale, spec), seed, offset)), codes):
        return codes, scale, outer
    y = scaled_gemm_triton(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, torch.float32, activation)
    return quantize_triton(y, out_scheme, seed, offset)


def _empty(a: Tensor, b: Tensor, spec: Scheme) -> Results:
    """Codes and scale without content, and an outer scale of 1."""
    shape = (a.shape[0], b.shape[0])
    codes = a.new_empty(shape, dtype=layout_for(spec).code_dtype)
    return codes, a.new_empty(spec.scale_shape(shape), dtype=scale_dtype(spec)), a.new_ones((), dtype=torch.float32)


def _prepared(scale: Tensor, spec: Scheme) -> Tensor:
    """The scale, written already where it is given."""
    return scale if spec.static is None else scale.fill_(spec.static)


def _fake(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    activation: str, out_scheme: str, seed: int, offset: int,
) -> Results:  # fmt: skip
    check(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, torch.float32, activation)
    return _empty(a, b, parse(out_scheme))


def _reference(*args: Any) -> Results:
    """quantize's definition on the float64 product, rounded once to float32."""
    *product, activation, out_scheme, seed, offset = args
    y = reference(*[*product, torch.float32, activation]).float().numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        q = quantize_reference(y, out_scheme, seed, offset)
    return torch.from_numpy(q.codes), stored_scale(q), torch.from_numpy(q.outer)


def _values(args: Sequence[Any], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """What the codes are worth: two codes that are neighbours in value need not be so as numbers."""
    codes, scale, outer = (output.cpu() for output in outputs)
    return [dequantize_torch(codes, scale, outer, args[8], torch.float32)]


def _tolerance(*args: Any) -> list[Tensor]:
    """|value - reference's value| at most: the product's own bound e, and for each of the two what quantising y ± e may
    move it by, a whole step for either direction of rounding, and what is cut off above the largest value.

    A step is y · ε where the element is a float of normal size, else its widest gap times the scale. The scale of a
    tile lies within amax ± max e over the largest value, twice that or half for powers of two.
    """
    *product, activation, out_scheme, _, _ = args
    spec = parse(out_scheme)
    whole = [*product, torch.float32, activation]
    error = tolerance(*whole).numpy()
    y = np.nan_to_num(reference(*whole).abs().numpy(), posinf=0.0)
    shape = (y.shape[0], y.shape[1])
    if spec.static is not None:
        low = high = np.full(shape, spec.static)
    else:
        factor = 2.0 if spec.rule.power_of_two else 1.0
        largest = spec.element.amax_target
        most, least = (spread(tile_max(part, spec.tile), spec.tile, shape) for part in (y + error, y - error))
        high, low = most * (1 + 1e-6) * factor / largest, np.maximum(least, 0.0) * (1 - 1e-6) / factor / largest
    if isinstance(spec.element, FloatFormat):
        step = np.maximum((y + error) * spec.element.epsilon, high * spec.element.smallest_subnormal)
    else:
        values = np.unique(spec.element.values()[np.isfinite(spec.element.values())])
        step = high * np.diff(values).max()
    cut = np.maximum(y + error - low * spec.element.max, 0.0) if spec.static or spec.rule.power_of_two else 0.0
    return [torch.from_numpy(error + 2.0 * (step + cut) + 1e-38)]


SAMPLE_SCHEMES = (
    "e4m3fn/1x128", "e4m3fn/1x32", "e4m3fn/32x32", "e5m2/16x16:pow2", "e4m3fn:static=0.05", "int8:static=0.07",
    "int8/row:static=0.07", "int8/1x64", "mxfp8", "mxfp4", "mxint8", "e4m3fn/1x32+sr", "int8/16x32+sr", "rf8/1x32",
    "nf4/1x64", "e4m3fn/row", "e4m3fn", "int8/col", "int8/3x40",
)  # fmt: skip


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    products = list(GEMM.samples(rng, device))
    biased = [sample for sample in products if "bias" in sample.name]
    chosen = biased[:1] + [sample for sample in biased if sample.args[0].shape[0] < 100][::2] + products[:44:6]
    activations = ("none", "relu", "gelu", "gelu_tanh", "silu")
    for index, scheme in enumerate(SAMPLE_SCHEMES):
        for turn in range(2):
            base = chosen[(index + 7 * turn) % len(chosen)]
            activation = activations[(index + turn) % len(activations)]
            rest = (activation, scheme, 1234, 77 << 32 | 5)
            yield Sample(f"{base.name} {activation} → {scheme}", (*base.args[:7], *rest))


def _cost(*args: Any) -> Cost:
    *product, activation, out_scheme, _, _ = args
    cost, spec = GEMM.cost(*product, torch.float32, activation), parse(out_scheme)
    shape = (product[0].shape[0], product[2].shape[0])
    scales = int(np.prod(spec.scale_shape(shape))) * spec.scale_bits / 8
    return Cost(flops=cost.flops, bytes=cost.bytes - 3.0 * shape[0] * shape[1] + scales)


GEMM_QUANTIZED = register(
    Op(
        name="scaled_gemm_quantized",
        schema="(Tensor a, Tensor a_scale, Tensor b, Tensor b_scale, str a_scheme, str b_scheme, Tensor? bias, "
        "str activation, str out_scheme, int seed, int offset) -> (Tensor codes, Tensor scale, Tensor outer)",
        reference=_reference,
        torch_impl=scaled_gemm_quantized_torch,
        triton_impl=scaled_gemm_quantized_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=ErrorBound(_tolerance, _values),
        compile_cases=coded_cases,
        unsupported=GEMM.unsupported,
    )
)
