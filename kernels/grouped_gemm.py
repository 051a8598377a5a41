"""grouped_gemm: the products of runs of rows with a matrix each, in one launch; the experts of a mixture of them.

    out[t, n] = Σ_k dec(a[t, k]) · s_a[t, k] · dec(b[g, n, k]) · s_b[g, n, k],    offsets[g - 1] <= t < offsets[g]

`torch.ops.narrowgauge.grouped_gemm(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype) -> Tensor`
  a         [T, K] codes, the rows of a group behind each other, any strides
  b         [G, N, K] codes, any strides (`.mT` of [G, K, N] is as good)
  offsets   int32 [G], where each group ends, ascending; groups may be empty (the convention of torch's grouped_mm)
  a_scale   as `scaled_gemm` takes it for a: one for the tensor, for each row, or for each block of a row
  b_scale   [G, ...] of what `scaled_gemm` takes for one matrix
  out       [T, N] float32, bfloat16 or float16 (out_dtype), contiguous; zero from row offsets[G - 1] on
Formats, their pairs and granularities are those of `scaled_gemm`, but tiles of a that are higher than one row, which
would reach into another group.

On a GPU the offsets are not looked at by the host: there is no synchronisation, ends beyond T count as T and ends below
the one before as that one. The CPU refuses both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Scheme, quantize_reference
from narrowgauge.kernels import _grouped_gemm_triton as kernels
from narrowgauge.kernels._gemm_checks import check as check_pair
from narrowgauge.kernels._grouped_gemm_cases import compile_cases
from narrowgauge.kernels.dequantize import factors_of
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.kernels.op import Cost, ErrorBound, Op, Sample, register
from narrowgauge.kernels.quantize import stored_scale


def check_offsets(offsets: Tensor, groups: int, device: torch.device) -> None:
    """TypeError or ValueError unless these are the ends of `groups` groups; their values are not looked at."""
    if offsets.dtype != torch.int32:
        raise TypeError(f"offsets: got {str(offsets.dtype).removeprefix('torch.')}, accepted: int32")
    if tuple(offsets.shape) != (groups,):
        raise ValueError(f"offsets: got shape {tuple(offsets.shape)}, accepted for {groups} groups: ({groups},)")
    if offsets.device != device:
        raise ValueError(f"offsets: is on {offsets.device}, a on {device}; all tensors belong on one device")


def ranges(offsets: Tensor, total: int) -> list[tuple[int, int]]:
    """First row and end of every group. ValueError for ends that descend or lie beyond `total`."""
    ends = offsets.tolist()
    starts = [0, *ends[:-1]]
    for group, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if not start <= end <= total:
            raise ValueError(f"offsets: got {end} for the end of group {group}, accepted: {start} to {total}")
    return list(zip(starts, ends, strict=True))


def check(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> tuple[Scheme, Scheme]:  # fmt: skip
    """The two schemes. TypeError or ValueError, naming the argument, for a call that the contract excludes."""
    if b.dim() != 3 or b.shape[0] == 0:
        raise ValueError(f"b: got shape {tuple(b.shape)}, accepted: [groups, N, K], of at least one group")
    if b_scale.dim() != 3 or b_scale.shape[0] != b.shape[0]:
        raise ValueError(
            f"b_scale: got shape {tuple(b_scale.shape)}, accepted: [{b.shape[0]}, ...], the scales of each group"
        )
    specs = check_pair(a, a_scale, b[0], b_scale[0], a_scheme, b_scheme, None, out_dtype)
    if specs[0].factor_tile not in ((None, None), (1, specs[0].factor_tile[1])):
        raise ValueError(
            f"a_scheme: {a_scheme} has scales of several rows, which may be of two groups; accepted: tensor, row, 1xG"
        )
    check_offsets(offsets, b.shape[0], a.device)
    return specs


def _rows(scale: Tensor, spec: Scheme, start: int, end: int) -> Tensor:
    """The scales of rows start to end of a."""
    return scale if spec.factor_tile[0] is None else scale[start:end]


def grouped_gemm_torch(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The CPU implementation: scaled_gemm on one group after the other."""
    specs = check(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype)
    out = a.new_zeros((a.shape[0], b.shape[1]), dtype=out_dtype)
    for group, (start, end) in enumerate(ranges(offsets, a.shape[0])):
        if start < end:
            scale = _rows(a_scale, specs[0], start, end)
            out[start:end] = GEMM.torch_impl(
                a[start:end], scale, b[group], b_scale[group], a_scheme, b_scheme, None, out_dtype
            )
    return out


def _kept(scale: Tensor, spec: Scheme, cols: int) -> Tensor:
    """Scales as the kernel takes them: stored ones, or the factors of formats that it does not decode."""
    if kernels.keeps_codes(spec) or scale.dtype == torch.float32:
        return scale
    return factors_of(scale, scale.new_ones((), dtype=torch.float32), spec, cols).unflatten(0, scale.shape[:-1])


def grouped_gemm_triton(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The GPU implementation; on CPU tensors it runs in Triton's interpreter."""
    specs = check(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype)
    a_scale, b_scale = _kept(a_scale, specs[0], a.shape[1]), _kept(b_scale, specs[1], a.shape[1])
    return kernels.launch(a, a_scale, b, b_scale, offsets, specs, out_dtype)


def _fake(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    check(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype)
    return a.new_empty((a.shape[0], b.shape[1]), dtype=out_dtype)


def _reference(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The float64 product of the dequantised operands of every group."""
    specs = check(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype)
    out = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float64)
    for group, (start, end) in enumerate(ranges(offsets, a.shape[0])):
        scale = _rows(a_scale, specs[0], start, end)
        out[start:end] = GEMM.reference(
            a[start:end], scale, b[group], b_scale[group], a_scheme, b_scheme, None, out_dtype
        )
    return out


def _tolerance(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """|out - reference| at most: scaled_gemm's bound for the product of each group, 0 behind the last."""
    specs = check(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype)
    assert isinstance(GEMM.bound, ErrorBound)
    bound = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float64)
    for group, (start, end) in enumerate(ranges(offsets, a.shape[0])):
        scale = _rows(a_scale, specs[0], start, end)
        bound[start:end] = GEMM.bound.tolerance(
            a[start:end], scale, b[group], b_scale[group], a_scheme, b_scheme, None, out_dtype
        )
    return bound


PAIRS = (
    ("e4m3fn/row", "e4m3fn/row"), ("e4m3fn", "e4m3fn"), ("e4m3fn/1x128", "e4m3fn/128x128"), ("e5m2/row", "e4m3fn/row"),
    ("e4m3fn/1x32", "e4m3fn/row"), ("e4m3fn/row", "e4m3fn/32x32"), ("mxfp8", "mxfp8"), ("mxfp8", "mxfp4"),
    ("int8/row", "int8/row"), ("int8/1x32", "int8/32x32"), ("rf8/row", "rf8/row"), ("e4m3fn/row", "nf4/1x64"),
    ("e4m3fnuz/row", "e4m3fnuz"), ("mx6", "mx6"),
)  # fmt: skip


def quantized(rng: np.random.Generator, shape: tuple[int, int], scheme: str) -> tuple[Tensor, Tensor]:
    """Codes and scale of normal numbers."""
    q = quantize_reference(rng.standard_normal(shape).astype(np.float32), scheme)
    return torch.from_numpy(q.codes), stored_scale(q)


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def sample(pair: tuple[str, str], ends: tuple[int, ...], n: int, k: int, beyond: int = 0, turned: bool = False,
               out: torch.dtype = torch.float32) -> Sample:  # fmt: skip
        a, a_scale = quantized(rng, (ends[-1] + beyond, k), pair[0])
        weights = [quantized(rng, (n, k), pair[1]) for _ in ends]
        b, b_scale = torch.stack([codes for codes, _ in weights]), torch.stack([scale for _, scale in weights])
        b = b.mT.contiguous().mT if turned else b
        tensors = [t.to(device) for t in (a, a_scale, b, b_scale, torch.tensor(ends, dtype=torch.int32))]
        name = f"{pair[0]} × {pair[1]} {ends} + {beyond} {n}x{k} {'turned ' if turned else ''}{out}"
        return Sample(name, (*tensors, *pair, out))

    for index, pair in enumerate(PAIRS):
        out = (torch.float32, torch.bfloat16, torch.float16)[index % 3]
        yield sample(pair, (5, 5, 38), 29, 160, turned=index % 2 == 1, out=out)
    for pair in (("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/1x128", "e4m3fn/128x128"), ("int8/row", "int8")):
        yield sample(pair, (0, 70, 71), 67, 140, beyond=3)
        yield sample(pair, (0, 0), 5, 16, beyond=2)
        yield sample(pair, (0,), 5, 16)
        yield sample(pair, (3,), 1, 1)
        yield sample(pair, (2, 4), 0, 16)
        yield sample(pair, (2, 4), 7, 0)
    yield sample(PAIRS[0], tuple(range(1, 20, 2)), 9, 33)
    a, *rest = sample(PAIRS[0], (10, 30), 12, 64).args
    wide = torch.cat((a, a), dim=1)
    yield Sample("strided rows", (wide[:, ::2], *rest))
    a, scale, *rest = sample(PAIRS[0], (10, 30), 12, 64).args
    scale[11] = float("nan")
    yield Sample("a NaN scale", (a, scale, *rest))


def _cost(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Cost:  # fmt: skip
    """As if every row were of a group, and every group had rows."""
    (rows, depth), cols = a.shape, b.shape[1]
    read = sum(tensor.nbytes for tensor in (a, a_scale, b, b_scale, offsets))
    return Cost(flops=2.0 * rows * cols * depth, bytes=float(read + rows * cols * out_dtype.itemsize))


GROUPED_GEMM = register(
    Op(
        name="grouped_gemm",
        schema="(Tensor a, Tensor a_scale, Tensor b, Tensor b_scale, Tensor offsets, str a_scheme, str b_scheme, "
        "ScalarType out_dtype) -> Tensor",
        reference=_reference,
        torch_impl=grouped_gemm_torch,
        triton_impl=grouped_gemm_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=ErrorBound(_tolerance),
        compile_cases=compile_cases,
        unsupported=GEMM.unsupported,
    )
)
