"""weight_only_gemm: numbers times a weight that is kept as codes (W8A16, W4A16), out = x @ dequantize(codes)ᵀ + bias.

    out[t, n] = Σ_k x[t, k] · (dec(codes[n, k]) - z[n, k]) · s[n, k]  (+ bias[n])

`torch.ops.narrowgauge.weight_only_gemm(x, codes, scale, outer, zero_point, scheme, cols, packed, bias, out_dtype)`
  x           [T, K] float32, bfloat16, float16 or float64, any strides; K = cols
  codes       [N, K] one a byte as `quantize` gives them; where `packed`, uint8 [N, packed_nbytes(K, bits)] of a format
              of fewer than 8 bits, as `narrowgauge.kernels.packing` lays them out
  scale       `Scheme.scale_shape((N, K))` as `quantize` gives it: float32, or scale codes of a block format
  outer       [] float32 of two-level formats, else None
  zero_point  float32 of the shape of scale, in units of the codes' values, or None; not of block formats
  bias        [N] floating, or None
  out         [T, N] of out_dtype (float32, bfloat16, float16, float64), contiguous
Any element format of at most 8 bits and any granularity.

Sums are float32 (float64 for float64 x). Codes are decoded in registers, or in blocks in the cache. Scales that a run
of K shares multiply the sum of the run, those of short runs the decoded values. A 16-bit x is multiplied in its own
type, so that the weight is rounded once to that type where its values are no numbers of it: NF4, zero points, scales
of short runs. Few rows are bound by reading the codes, which is all that such a product reads: no tensor core then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, parse, quantize_reference
from narrowgauge.formats.packing import packed_nbytes
from narrowgauge.formats.packing import unpack as unpack_reference
from narrowgauge.formats.tiles import spread
from narrowgauge.kernels import _weight_only_torch as cpu
from narrowgauge.kernels import _weight_only_triton as kernels
from narrowgauge.kernels._gemm_plan import INTERPRETER, target_of
from narrowgauge.kernels._weight_only_cases import compile_cases
from narrowgauge.kernels._weight_only_plan import holds, scales_sums
from narrowgauge.kernels.layout import layout_of, scale_dtype
from narrowgauge.kernels.op import Cost, ErrorBound, Op, Sample, register
from narrowgauge.kernels.packing import pack
from narrowgauge.kernels.quantize import stored_scale
from narrowgauge.numerics import gamma, gemm_bound

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_weight(
    codes: Tensor, scale: Tensor, outer: Tensor | None, zero_point: Tensor | None, spec: Scheme, cols: int, packed: bool
) -> None:  # fmt: skip
    fmt = spec.element
    if packed and fmt.bits == 8:
        raise ValueError(f"packed: codes of {fmt.name} take a byte each; accepted: False")
    expected = torch.uint8 if packed else layout_of(fmt).code_dtype
    if codes.dtype != expected:
        raise TypeError(
            f"codes: {spec} has {_name(expected)} codes{' when packed' if packed else ''}, got {_name(codes.dtype)}"
        )
    width = packed_nbytes(cols, fmt.bits) if packed else cols
    if codes.dim() != 2 or codes.shape[1] != width:
        raise ValueError(f"codes: expected [N, {width}] for {cols} columns of {spec}, got {tuple(codes.shape)}")
    shape, dtype = spec.scale_shape((codes.shape[0], cols)), scale_dtype(spec)
    if scale.dtype != dtype:
        raise TypeError(f"scale: {spec} has {_name(dtype)} scales, got {_name(scale.dtype)}")
    if tuple(scale.shape) != shape:
        raise ValueError(f"scale: {spec} on {codes.shape[0]} x {cols} has scales {shape}, got {tuple(scale.shape)}")
    if (outer is None) == spec.two_level:
        raise ValueError(f"outer: {spec} has {'a' if spec.two_level else 'no'} second scale for the whole tensor")
    if outer is not None and (outer.dim() != 0 or outer.dtype != torch.float32):
        raise ValueError(f"outer: expected [] float32, got {tuple(outer.shape)} {_name(outer.dtype)}")
    if zero_point is None:
        return
    if isinstance(spec.format, BlockFormat):
        raise ValueError(f"zero_point: {spec} is a block format, which has none; accepted: None")
    if tuple(zero_point.shape) != shape or zero_point.dtype != torch.float32:
        raise ValueError(
            f"zero_point: expected {shape} float32, got {tuple(zero_point.shape)} {_name(zero_point.dtype)}"
        )


def check(
    x: Tensor, codes: Tensor, scale: Tensor, outer: Tensor | None, zero_point: Tensor | None, scheme: str, cols: int,
    packed: bool, bias: Tensor | None, out_dtype: torch.dtype,
) -> cpu.Weight:  # fmt: skip
    """The weight. TypeError or ValueError, naming the argument, for a call that the contract excludes."""
    spec = parse(scheme)
    layout_of(spec.element)  # refuses formats that kernels do not serve
    for name, dtype in (("x", x.dtype), ("out_dtype", out_dtype)):
        if dtype not in FLOATS:
            raise TypeError(f"{name}: expected {', '.join(map(_name, FLOATS))}, got {_name(dtype)}")
    if x.dim() != 2 or x.shape[1] != cols:
        raise ValueError(f"x: expected [T, {cols}], got {tuple(x.shape)}")
    _check_weight(codes, scale, outer, zero_point, spec, cols, packed)
    if bias is not None and (tuple(bias.shape) != (codes.shape[0],) or not bias.dtype.is_floating_point):
        got = f"{_name(bias.dtype)} {tuple(bias.shape)}"
        raise ValueError(f"bias: expected [{codes.shape[0]}] floating numbers, got {got}")
    tensors = {"codes": codes, "scale": scale, "outer": outer, "zero_point": zero_point, "bias": bias}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name}: is on {tensor.device}, x on {x.device}; all tensors belong on one device")
    return cpu.Weight(codes, scale, outer, zero_point, spec, cols, packed)


def weight_only_gemm_torch(x: Tensor, *rest: Any) -> Tensor:
    """The CPU implementation, see kernels/_weight_only_torch.py."""
    *_, bias, out_dtype = rest
    return cpu.multiply(x, check(x, *rest), bias, out_dtype)


def weight_only_gemm_triton(x: Tensor, *rest: Any) -> Tensor:
    """The GPU implementation; on CPU tensors it runs in Triton's interpreter."""
    *_, bias, out_dtype = rest
    return kernels.launch(x, check(x, *rest), bias, out_dtype)


def _unsupported(x: Tensor, *rest: object) -> str | None:
    target = target_of(x.device)
    if target.startswith("sm_") and int(target[3:]) < 80:
        return f"Triton's matrix products need compute capability 8.0 or newer, {x.device} has {target}"
    return None


def _fake(x: Tensor, *rest: Any) -> Tensor:
    weight = check(x, *rest)
    return x.new_empty((x.shape[0], weight.rows), dtype=rest[-1])


def _factors(scale: Tensor, outer: Tensor | None, spec: Scheme, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The factor of every element, in float64."""
    grid = scale.cpu().numpy()
    if isinstance(spec.format, BlockFormat):
        own = np.ones((), np.float32) if outer is None else outer.cpu().numpy()
        grid = spec.format.scales(np.ascontiguousarray(grid).view(spec.format.scale_dtype), own)
    return spread(grid.astype(np.float64), spec.factor_tile, shape)


def _values(weight: cpu.Weight) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(the unscaled values, the factor of each), in float64."""
    spec, shape = weight.spec, (weight.rows, weight.cols)
    codes = weight.codes.cpu().numpy()
    if weight.packed:
        codes = unpack_reference(codes, spec.element.bits, weight.cols, layout_of(spec.element).signed_codes)
    values = spec.element.decode(codes).astype(np.float64)
    if weight.zero_point is not None:
        values = values - spread(weight.zero_point.cpu().numpy().astype(np.float64), spec.tile, shape)
    return values, _factors(weight.scale, weight.outer, spec, shape)


def _reference(x: Tensor, *rest: Any) -> Tensor:
    """The float64 product with the decoded weight, in float64 whatever out_dtype."""
    *_, bias, _ = rest
    with np.errstate(invalid="ignore", over="ignore"):
        values, factors = _values(check(x, *rest))
        out = torch.from_numpy(x.double().cpu().numpy() @ (values * factors).T)
    return out if bias is None else out + bias.double().cpu()


def _tolerance(x: Tensor, *rest: Any) -> Tensor:
    """|out - reference| at most, for every order of summation; 0 where the result is not finite.

    K products and sums and at most six roundings more: the zero point's difference, a decoded scale, its products with
    a value, a partial sum and the second scale, the bias. Tensor cores truncate, which doubles the unit roundoff. The
    weight is rounded to a 16-bit x's type (see the module), in float16 by 2^-25 at least. The BLAS rounds bfloat16
    sums before they are scaled. Float64 sums are of decoded values in float32.
    """
    *_, bias, out_dtype = rest
    weight = check(x, *rest)
    values, factors = (np.nan_to_num(part, posinf=0.0, neginf=0.0) for part in _values(weight))
    wide = np.abs(np.nan_to_num(x.double().cpu().numpy(), posinf=0.0, neginf=0.0))
    magnitude, info = wide @ np.abs(values * factors).T, torch.finfo(out_dtype)
    narrow = x.dtype in (torch.bfloat16, torch.float16)
    once = 0.0 if out_dtype in (torch.float32, torch.float64) else info.eps / 2
    out_roundoff = 2 * once + once**2 if x.dtype == torch.bfloat16 else once
    roundoff = 2.0**-24 if target_of(x.device) == INTERPRETER else 2.0**-23
    extra = gamma(weight.cols, 2.0**-53) * magnitude + info.smallest_normal * info.eps / 2
    kept = weight.zero_point is None and scales_sums(weight.spec) and holds(weight.spec.element, x.dtype)
    if narrow and not kept:
        out_roundoff += torch.finfo(x.dtype).eps / 2 * (1.0 + out_roundoff)
        extra = extra + (2.0**-25 * wide @ np.abs(factors).T if x.dtype == torch.float16 else 0.0)
    if bias is not None:
        magnitude = magnitude + np.abs(bias.double().cpu().numpy())
    bound = gemm_bound(
        weight.cols, magnitude, unit_roundoff=roundoff, extra_roundings=6, out_unit_roundoff=out_roundoff
    )
    return torch.from_numpy(bound + extra)


SAMPLE_SCHEMES = (
    "int8", "int8/row", "int8_full/1x64", "int8/col", "int8/16x16", "int8/1x24", "e4m3fn/row", "e4m3fn/1x128",
    "e4m3fn/128x128", "e5m2/1x32", "e5m2fnuz/row", "e3m4/row", "rf8/row", "rf8/1x64", "dynamic8/1x64", "udynamic8/row",
    "uint8/row", "q1.6/row", "int4/row", "int4/1x32", "int4/1x128", "uint4/1x24", "nf4/1x64", "nf4/row", "bnb_fp4/1x16",
    "e2m1fn/8x8", "e2m1fn/allx40", "int6/1x16", "int3/1x24", "int5", "e3m2fn/row", "int2/1x8", "mxfp8", "mxfp8_e5m2",
    "mxfp4", "mxfp6", "mxint8", "nvfp4", "nvfp4_2d", "mx6", "mx9", "hbfp4", "msfp12",
)  # fmt: skip


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def sample(
        scheme: str, t: int, n: int, k: int, dtype: torch.dtype = torch.float32, *, packed: bool = True,
        zero: bool = False, bias: bool = False, out: torch.dtype | None = None, note: str = "",
    ) -> Sample:  # fmt: skip
        x = torch.from_numpy(rng.standard_normal((t, k)).astype(np.float32)).to(dtype).to(device)
        q = quantize_reference(rng.standard_normal((n, k)).astype(np.float32), scheme)
        spec, codes, scale = q.scheme, torch.from_numpy(q.codes), stored_scale(q)
        packed = packed and spec.element.bits < 8
        stored = (pack(codes, spec.element.bits) if packed else codes).to(device)
        point = torch.from_numpy(rng.integers(0, 9, scale.shape).astype(np.float32)).to(device) if zero else None
        added = torch.from_numpy(rng.standard_normal(n).astype(np.float32)).to(device) if bias else None
        outer = torch.from_numpy(q.outer).to(device) if spec.two_level else None
        name = f"{scheme} {t}x{n}x{k} {dtype}{' packed' if packed else ''}{' zero' if zero else ''}{note}"
        out = dtype if out is None else out
        return Sample(name, (x, stored, scale.to(device), outer, point, scheme, k, packed, added, out))

    narrow = (torch.bfloat16, torch.float32, torch.float16)
    for index, scheme in enumerate(SAMPLE_SCHEMES):
        yield sample(scheme, 3, 37, 160, narrow[index % 3], packed=index % 4 != 3)
        yield sample(scheme, 21, 19, 136, narrow[(index + 1) % 3], bias=index % 2 == 0)
    for index, scheme in enumerate(("int8/row", "nf4/1x64", "mxfp4", "int4/1x32", "e4m3fn", "nvfp4", "int6/4x24")):
        for t, n, k in ((1, 7, 13), (0, 8, 16), (3, 1, 1), (5, 0, 4), (5, 4, 0), (2, 129, 131), (17, 5, 300)):
            yield sample(scheme, t, n, k, narrow[index % 3], bias=True)
    for scheme in ("uint4/1x24", "uint4/1x128", "int8/row", "nf4/16x16"):
        for dtype in narrow:
            yield sample(scheme, 4 if dtype == torch.float32 else 12, 33, 136, dtype, zero=True, bias=True)
    yield sample("int8/row", 4, 33, 130, torch.float64)
    yield sample("nf4/1x64", 12, 33, 130, torch.float64, bias=True)
    yield sample("int4/1x32", 9, 33, 64, torch.bfloat16, out=torch.float32)
    yield sample("int8/row", 1, 20, 5000, torch.bfloat16, out=torch.float32)
    yield sample("int4/1x128", 16, 20, 5000, torch.bfloat16)
    x, *rest = sample("e5m2/row", 4, 9, 96).args
    rest[1][1] = float("nan")
    yield Sample("NaN scale", (x, *rest))
    x, *rest = sample("mxfp4", 4, 9, 96, torch.bfloat16).args
    rest[1][2, 1] = 0xFF
    yield Sample("NaN scale code", (x, *rest))
    x, *rest = sample("int8/row", 4, 9, 96).args
    x[1, 3], x[2, 5] = float("inf"), float("nan")
    yield Sample("inf and NaN in x", (x, *rest))
    every = torch.arange(256, dtype=torch.uint8, device=device).reshape(16, 16)
    one, identity = torch.ones((1, 1), device=device), torch.eye(16, device=device)
    for scheme in ("e4m3fn", "e5m2", "e5m2fnuz", "rf8", "e3m4", "hif8"):
        finite = torch.where(every < 0x70, every, 0)
        yield Sample(f"codes of {scheme}", (identity, finite, one, None, None, scheme, 16, False, None, torch.float32))
    x, codes, *rest = sample("int8/row", 6, 40, 64, packed=False).args
    wide = torch.zeros((80, 130), dtype=torch.int8, device=device)
    wide[::2, 1:129:2] = codes
    yield Sample("strided", (x.t().contiguous().t(), wide[::2, 1:129:2], *rest))
    yield Sample("transposed codes", (x, codes.t().contiguous().t(), *rest))


def _cost(x: Tensor, codes: Tensor, scale: Tensor, *rest: Any) -> Cost:
    (t, k), n = x.shape, codes.shape[0]
    read = sum(part.numel() * part.element_size() for part in (x, codes, scale, *rest) if isinstance(part, Tensor))
    return Cost(flops=2.0 * t * n * k, bytes=float(read + t * n * rest[-1].itemsize))


WEIGHT_ONLY_GEMM = register(
    Op(
        name="weight_only_gemm",
        schema="(Tensor x, Tensor codes, Tensor scale, Tensor? outer, Tensor? zero_point, str scheme, int cols, "
        "bool packed, Tensor? bias, ScalarType out_dtype) -> Tensor",
        reference=_reference,
        torch_impl=weight_only_gemm_torch,
        triton_impl=weight_only_gemm_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=ErrorBound(_tolerance),
        compile_cases=compile_cases,
        unsupported=_unsupported,
    )
)
