"""grouped_gemm_wgrad: one product for each run of columns, in one launch; weight gradients of a mixture of experts.

    out[g, m, n] = Σ_t dec(a[m, t]) · s_a[g, m] · dec(b[n, t]) · s_b[g, n],    offsets[g - 1] <= t < offsets[g]

`torch.ops.narrowgauge.grouped_gemm_wgrad(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype) -> Tensor`
  a, b      [M, T] and [N, T] codes, any strides: transposed views of the output's gradient and of the input
  a_scale   [G, M, 1] float32, one for each row within a group (scheme row), or [G, 1, 1] (tensor); b_scale likewise
  offsets   int32 [G], where each group ends, ascending; columns from the last end on are left out
  out       [G, M, N] float32, bfloat16 or float16 (out_dtype), contiguous; zero for an empty group
It is the form of torch's grouped_mm with two matrices. Formats and pairs are those of `scaled_gemm`. Scales of blocks
along the contraction are refused: a block may lie in two groups. Offsets are treated as in `grouped_gemm`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.kernels import _grouped_wgrad_triton as kernels
from narrowgauge.kernels._gemm_checks import check as check_pair
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.kernels.grouped_gemm import check_offsets, quantized, ranges
from narrowgauge.kernels.op import Cost, ErrorBound, Op, Sample, register


def check(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> tuple[Scheme, Scheme]:  # fmt: skip
    """The two schemes. TypeError or ValueError, naming the argument, for a call that the contract excludes."""
    groups = offsets.numel()
    if groups == 0:
        raise ValueError("offsets: got no group, accepted: at least one")
    check_offsets(offsets, groups, a.device)
    for name, scale in (("a_scale", a_scale), ("b_scale", b_scale)):
        if scale.dim() != 3 or scale.shape[0] != groups:
            raise ValueError(
                f"{name}: got shape {tuple(scale.shape)}, accepted: [{groups}, ...], the scales of each group"
            )
    specs = check_pair(a, a_scale[0], b, b_scale[0], a_scheme, b_scheme, None, out_dtype)
    for name, spec in (("a_scheme", specs[0]), ("b_scheme", specs[1])):
        if spec.factor_tile not in ((None, None), (1, None)):
            raise ValueError(f"{name}: {spec} has scales of blocks, which may lie in two groups; accepted: tensor, row")
    return specs


def grouped_gemm_wgrad_torch(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The CPU implementation: scaled_gemm on one group after the other."""
    check(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype)
    out = a.new_zeros((offsets.shape[0], a.shape[0], b.shape[0]), dtype=out_dtype)
    for group, (start, end) in enumerate(ranges(offsets, a.shape[1])):
        if start < end:
            out[group] = GEMM.torch_impl(
                a[:, start:end], a_scale[group], b[:, start:end], b_scale[group], a_scheme, b_scheme, None, out_dtype
            )
    return out


def grouped_gemm_wgrad_triton(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The GPU implementation; on CPU tensors it runs in Triton's interpreter."""
    specs = check(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype)
    return kernels.launch(a, a_scale, b, b_scale, offsets, specs, out_dtype)


def _fake(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    check(a, a_scale, b, b_scale, offsets, a_scheme, b_scheme, out_dtype)
    return a.new_empty((offsets.shape[0], a.shape[0], b.shape[0]), dtype=out_dtype)


def _of_groups(function: object, args: tuple[object, ...]) -> Tensor:
    """What a function with the arguments of scaled_gemm gives for each group, float64 [G, M, N]."""
    a, a_scale, b, b_scale, offsets, *rest = args
    assert isinstance(a, Tensor)
    assert isinstance(b, Tensor)
    assert isinstance(a_scale, Tensor)
    assert isinstance(b_scale, Tensor)
    assert isinstance(offsets, Tensor)
    assert callable(function)
    out = torch.zeros((offsets.shape[0], a.shape[0], b.shape[0]), dtype=torch.float64)
    for group, (start, end) in enumerate(ranges(offsets, a.shape[1])):
        part = a[:, start:end], a_scale[group], b[:, start:end], b_scale[group]
        out[group] = function(*part, rest[0], rest[1], None, rest[2])
    return out


def _reference(*args: object) -> Tensor:
    """The float64 product of the dequantised operands of every group."""
    return _of_groups(GEMM.reference, args)


def _tolerance(*args: object) -> Tensor:
    """|out - reference| at most: scaled_gemm's bound for the product of each group."""
    assert isinstance(GEMM.bound, ErrorBound)
    return _of_groups(GEMM.bound.tolerance, args)


PAIRS = (
    ("e5m2/row", "e4m3fn/row"), ("e4m3fn", "e4m3fn"), ("e4m3fn/row", "e4m3fn"), ("int8/row", "int8/row"),
    ("rf8/row", "rf8/row"), ("e4m3fn/row", "nf4/row"),
)  # fmt: skip


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def operand(rows: int, ends: tuple[int, ...], beyond: int, scheme: str, turned: bool) -> tuple[Tensor, Tensor]:
        starts = (0, *ends)
        parts = [
            quantized(rng, (rows, end - start), scheme)
            for start, end in zip(starts, (*ends, ends[-1] + beyond), strict=True)
        ]
        codes = torch.cat([part for part, _ in parts], dim=1)
        return codes.t().contiguous().t() if turned else codes, torch.stack([scale for _, scale in parts[:-1]])

    def sample(pair: tuple[str, str], ends: tuple[int, ...], m: int, n: int, beyond: int = 0, turned: str = "",
               out: torch.dtype = torch.float32) -> Sample:  # fmt: skip
        a = operand(m, ends, beyond, pair[0], "a" in turned)
        b = operand(n, ends, beyond, pair[1], "b" in turned)
        tensors = [t.to(device) for t in (*a, *b, torch.tensor(ends, dtype=torch.int32))]
        name = f"{pair[0]} × {pair[1]} {ends} + {beyond} {m}x{n} {turned} {out}"
        return Sample(name, (*tensors, *pair, out))

    for index, pair in enumerate(PAIRS):
        out = (torch.float32, torch.bfloat16, torch.float16)[index % 3]
        yield sample(pair, (5, 5, 138), 29, 31, beyond=2, turned=("", "ab", "a")[index % 3], out=out)
    for pair in (*PAIRS[:3], ("int8/row", "int8")):
        yield sample(pair, (0, 40, 41), 67, 35, turned="ab")
        yield sample(pair, (0, 0), 5, 6, beyond=2)
        yield sample(pair, (3,), 1, 1)
        yield sample(pair, (2, 4), 0, 7)
        yield sample(pair, (2, 4), 7, 0)
    a, scale, *rest = sample(PAIRS[0], (10, 30), 12, 9).args
    scale[1, 3] = float("nan")
    yield Sample("a NaN scale", (a, scale, *rest))


def _cost(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, a_scheme: str, b_scheme: str,
    out_dtype: torch.dtype,
) -> Cost:  # fmt: skip
    """As if every column were of a group."""
    (m, total), n = a.shape, b.shape[0]
    read = sum(tensor.nbytes for tensor in (a, a_scale, b, b_scale, offsets))
    return Cost(flops=2.0 * m * n * total, bytes=float(read + offsets.shape[0] * m * n * out_dtype.itemsize))


GROUPED_GEMM_WGRAD = register(
    Op(
        name="grouped_gemm_wgrad",
        schema="(Tensor a, Tensor a_scale, Tensor b, Tensor b_scale, Tensor offsets, str a_scheme, str b_scheme, "
        "ScalarType out_dtype) -> Tensor",
        reference=_reference,
        torch_impl=grouped_gemm_wgrad_torch,
        triton_impl=grouped_gemm_wgrad_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=ErrorBound(_tolerance),
        compile_cases=kernels.compile_cases,
        unsupported=GEMM.unsupported,
    )
)
