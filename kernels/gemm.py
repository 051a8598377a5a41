"""scaled_gemm: the product of two quantised matrices, out = activation((a · scale) @ (b · scale).t() + bias).

    out[m, n] = f(Σ_k dec(a[m, k]) · s_a[m, k] · dec(b[n, k]) · s_b[n, k]  (+ bias[n]))

`torch.ops.narrowgauge.scaled_gemm(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, out_dtype, activation="none") ->
Tensor`
  a, b      [M, K] and [N, K] codes of the schemes, any strides (a transposed view is as good as a contiguous tensor)
  a_scale   `Scheme.scale_shape((M, K))` float32, or the scale codes of a block format, or in their place the float32
            factor of every tile of `Scheme.factor_tile`, which two-level formats (NVFP4) need; b_scale likewise
  bias      [N] floating, or None
  out       [M, N] float32, bfloat16 or float16 (out_dtype), contiguous
  activation  f, in float32: "none", "relu", "gelu", "gelu_tanh" or "silu"
              (kernels/_gemm_activation.py has the formulas)
The three products of a linear layer need no transposed copies: y = x Wᵀ takes (x, W), dx = dy W takes (dy, W.t()),
dW = dyᵀ x takes (dy.t(), x.t()).
Two formats of at most 8 bits, signed integers with each other and the rest (minifloats, codebooks) with each other;
formats and granularities of the two sides may differ. Along K a scale covers everything (tensor, row) or a block; of
two block lengths one divides the other.

Floats are summed in float32, integers exactly in int32. Scales that are constant along K multiply the sum. Those of
K-blocks multiply the sum of their block in Triton, where the two scales of a block are multiplied first (a product
below 2^-126 loses digits). On the CPU they multiply the decoded operand instead, integers included: one rounding more
per value, within the same bound, and one call of the BLAS, which is 1.5 (blocks of 128) to 4 times (32) as fast.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, parse, quantize_reference
from narrowgauge.formats.tiles import spread
from narrowgauge.kernels._gemm_activation import ROUNDINGS, STEEPEST, activate_, activated
from narrowgauge.kernels._gemm_cases import compile_cases
from narrowgauge.kernels._gemm_checks import check, exact_terms
from narrowgauge.kernels._gemm_plan import INTERPRETER, PROMOTE_EVERY, PROMOTED, plan, scale_columns, target_of
from narrowgauge.kernels._gemm_triton import Call, keeps_codes, multiply
from narrowgauge.kernels._tables_torch import decode
from narrowgauge.kernels.dequantize import factors_of
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.op import Cost, ErrorBound, Op, Sample, register
from narrowgauge.kernels.quantize import stored_scale
from narrowgauge.kernels.tiles import is_column_major, multiply_tiles, row_blocks, spread_rows
from narrowgauge.numerics import gamma, gemm_bound

DECODED = 1 << 20
"""Values of b that the CPU decodes at a time: they stay in the caches, and their memory is used again."""
FEW_ROWS = 256
"""Rows of a up to which that is quicker; with more the products take the time."""


def _factors(scale: Tensor, spec: Scheme, cols: int) -> Tensor:
    """float32 factor of each tile of `spec.factor_tile`, [tiles down, tiles across]."""
    return (
        scale
        if scale.dtype == torch.float32
        else factors_of(scale, scale.new_ones((), dtype=torch.float32), spec, cols)
    )


def _values(codes: Tensor, factor: Tensor, spec: Scheme) -> Tensor:
    """The decoded values, which take the scales of K-blocks along."""
    values = decode(codes.t(), spec.element).t() if is_column_major(codes) else decode(codes, spec.element)
    return values if spec.factor_tile[1] is None else multiply_tiles(values, factor, spec.factor_tile)


def _fold_and_multiply(a: Tensor, b: Tensor, factors: tuple[Tensor, Tensor], specs: tuple[Scheme, Scheme]) -> Tensor:
    """a @ b.t() of the decoded values; for few rows of a, DECODED of b at a time, if they lie together."""
    x = _values(a, factors[0], specs[0])
    if b.numel() <= DECODED or x.shape[0] > FEW_ROWS or is_column_major(b):
        return torch.mm(x, _values(b, factors[1], specs[1]).t())
    out = x.new_empty((x.shape[0], b.shape[0]))
    for rows, tiles in row_blocks(b.shape, specs[1].factor_tile[0], DECODED):
        torch.mm(x, _values(b[rows], factors[1][tiles], specs[1]).t(), out=out[:, rows])
    return out


def multiplies_bytes() -> bool:
    """Whether the CPU has instructions that add products of int8 into int32 (VNNI), and torch a library that takes
    them."""
    return bool(torch.cpu._is_vnni_supported() and torch.backends.mkldnn.is_available())


def _exact_sum(a: Tensor, b: Tensor, terms: int) -> Tensor:
    """a @ b.t() of integer codes, as the float32 nearest to the int32 sum: by the CPU's own products of bytes, several
    times as fast as those of float32. Where it has none, `terms` products add exactly in float32, in any order, so the
    BLAS takes them, many times as fast as torch's loops over integers."""
    if multiplies_bytes() and a.shape[1] > 1:  # for one column torch 2.13 gives other numbers
        return torch._int_mm(a, b.t()).float()
    x, y, k = a.float(), b.float(), a.shape[1]
    if k <= terms:
        return torch.mm(x, y.t())
    total = torch.zeros((a.shape[0], b.shape[0]), dtype=torch.int32)
    for start in range(0, k, terms):
        part = slice(start, start + terms)
        total += torch.mm(x[:, part], y[:, part].t()).to(torch.int32)
    return total.float()


def scaled_gemm_torch(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    out_dtype: torch.dtype, activation: str = "none",
) -> Tensor:  # fmt: skip
    """The CPU implementation: decode, the BLAS, then scale in place."""
    specs = check(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, out_dtype, activation)
    factors = _factors(a_scale, specs[0], a.shape[1]), _factors(b_scale, specs[1], b.shape[1])
    layouts = layout_of(specs[0].element), layout_of(specs[1].element)
    if layouts[0].kind == "int" and scale_columns(specs[0].factor_tile, specs[1].factor_tile) == 0:
        out = _exact_sum(a, b, exact_terms(*specs, largest=2**24))
        fraction_bits = layouts[0].fraction_bits + layouts[1].fraction_bits
        out = out if fraction_bits == 0 else out.mul_(2.0**-fraction_bits)
    else:
        out = _fold_and_multiply(a, b, factors, specs)
    for view, factor, spec in zip((out, out.t()), factors, specs, strict=True):
        if spec.factor_tile[1] is None:
            view.mul_(spread_rows(factor, spec.factor_tile[0], view.shape[0]))
    if bias is not None:
        out += bias
    return activate_(out, activation).to(out_dtype)


def kernel_call(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, specs: tuple[Scheme, Scheme], bias: Tensor | None,
    activation: str,
) -> Call:  # fmt: skip
    """A checked call as the Triton kernels take it: scales as codes or as factors."""
    a_scale, b_scale = (
        scale if keeps_codes(spec) else _factors(scale, spec, a.shape[1])
        for scale, spec in zip((a_scale, b_scale), specs, strict=True)
    )
    bias = None if bias is None else bias.contiguous()
    return Call(a, a_scale, b, b_scale, *specs, bias, activation)


def scaled_gemm_triton(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    out_dtype: torch.dtype, activation: str = "none",
) -> Tensor:  # fmt: skip
    """The GPU implementation; on CPU tensors it runs in Triton's interpreter."""
    specs = check(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, out_dtype, activation)
    return multiply(kernel_call(a, a_scale, b, b_scale, specs, bias, activation), out_dtype)


def _unsupported(a: Tensor, *rest: object) -> str | None:
    target = target_of(a.device)
    if target.startswith("sm_") and int(target[3:]) < 80:
        return f"Triton's matrix products need compute capability 8.0 or newer, {a.device} has {target}"
    return None


def _fake(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    out_dtype: torch.dtype, activation: str = "none",
) -> Tensor:  # fmt: skip
    check(a, a_scale, b, b_scale, a_scheme, b_scheme, bias, out_dtype, activation)
    return a.new_empty((a.shape[0], b.shape[0]), dtype=out_dtype)


def _dequantized(codes: Tensor, scale: Tensor, scheme: str) -> NDArray[np.float64]:
    spec, grid = parse(scheme), scale.cpu().numpy()
    if isinstance(spec.format, BlockFormat) and scale.dtype != torch.float32:
        grid = spec.format.scales(np.ascontiguousarray(grid).view(spec.format.scale_dtype))
    shape = (codes.shape[0], codes.shape[1])
    return spec.element.decode(codes.cpu().numpy()) * spread(grid, spec.factor_tile, shape).astype(np.float64)


def reference(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    out_dtype: torch.dtype, activation: str = "none",
) -> Tensor:  # fmt: skip
    """The float64 product of the dequantised operands, in float64 whatever out_dtype."""
    with np.errstate(invalid="ignore"):
        out = torch.from_numpy(_dequantized(a, a_scale, a_scheme) @ _dequantized(b, b_scale, b_scheme).T)
    return activated(out if bias is None else out + bias.double().cpu(), activation)


def tolerance(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    out_dtype: torch.dtype, activation: str = "none",
) -> Tensor:  # fmt: skip
    """|out - reference| at most, for every order of summation; 0 where the result is not finite.

    K products and sums in float32 and at most four roundings more: two scales, their product, the bias. Sums of
    integers without K-blocks are exact, so that only the roundings of the int32, the scales and the bias remain. Tensor
    cores truncate, which doubles the unit roundoff; operands in three bfloat16 cost 2^-22; the partial sums of some
    targets' fp8 (PROMOTED) have 14 bits. An activation multiplies the error by its slope. The reference's own sum is
    float64.
    """
    spec_a, spec_b = parse(a_scheme), parse(b_scheme)
    x, y = (np.nan_to_num(_dequantized(*side), posinf=0.0, neginf=0.0) for side in
            ((a, a_scale, a_scheme), (b, b_scale, b_scheme)))  # fmt: skip
    terms, roundoff, extra, target = a.shape[1], 2.0**-24, 4, target_of(a.device)
    info = torch.finfo(out_dtype)
    out_roundoff = 0.0 if out_dtype == torch.float32 else info.eps / 2
    magnitude = np.abs(x) @ np.abs(y).T
    own = gamma(terms, 2.0**-53) * magnitude
    if layout_of(spec_a.element).kind == "int" and scale_columns(spec_a.factor_tile, spec_b.factor_tile) == 0:
        terms, magnitude = 0, np.abs(x @ y.T)
    elif target != INTERPRETER:
        roundoff *= 2.0
        how = plan(spec_a, spec_b, target)
        extra += 4 if (how.operand, how.precision) == ("fp32", "bf16x6") else 0
        if target in PROMOTED and how.operand == "fp8":
            partial = gamma(min(terms, PROMOTE_EVERY), 2.0**-13)
            out_roundoff += partial * (1.0 + out_roundoff)
    if bias is not None:
        magnitude = magnitude + np.abs(bias.double().cpu().numpy())
    bound = gemm_bound(terms, magnitude, unit_roundoff=roundoff, extra_roundings=extra, out_unit_roundoff=out_roundoff)
    bound += own
    if activation not in ("none", "relu"):
        bound = STEEPEST * bound + ROUNDINGS * (magnitude + bound)
    return torch.from_numpy(bound + info.smallest_normal * info.eps / 2)


SAMPLE_PAIRS = (
    ("e4m3fn", "e4m3fn"), ("e4m3fn/row", "e4m3fn/row"), ("e4m3fn", "e4m3fn/row"),
    ("e4m3fn/1x128", "e4m3fn/128x128"), ("e4m3fn/1x128", "e4m3fn/1x128"),
    ("e4m3fn/128x128", "e4m3fn/1x128"), ("e4m3fn/row", "e4m3fn/32x32:pow2"),
    ("e4m3fn/1x32", "e4m3fn/128x128"), ("e4m3fn/4x24", "e4m3fn/1x48"), ("e4m3fn/allx40", "e4m3fn/1x80"),
    ("e4m3fn/1x136", "e4m3fn/1x136"), ("e5m2/row", "e4m3fn/row"), ("e5m2/1x128", "e4m3fn/128x128"),
    ("e5m2", "e5m2"), ("e4m3fnuz/row", "e5m2fnuz/row"), ("e4m3fnuz/1x64", "e4m3fnuz/64x64"),
    ("e3m4/row", "e3m4"), ("e4m3/row", "e4m3fn"), ("binary8p1se/row", "e4m3fn/row"),
    ("binary8p5sf", "binary8p4se/row"), ("rf8", "rf8/row"), ("rf8/1x32", "rf8/32x32"),
    ("e4m3fn/row", "rf8/row"), ("int8", "int8"), ("int8/row", "int8/row"), ("int8/1x128", "int8/128x128"),
    ("int8/1x24", "int8_full/row"), ("int4/1x32", "int8/row"), ("q1.6/row", "int8/row"), ("mxfp8", "mxfp8"),
    ("mxfp8_e5m2", "mxfp8"), ("mxfp4", "mxfp6"), ("mxint8", "mxint8"), ("mxfp8", "e4m3fn/row"),
    ("nvfp4", "nvfp4"), ("nvfp4_2d", "mxfp8"), ("hbfp8", "hbfp4"), ("mx6", "mx9"), ("msfp12", "int8/row"),
    ("nf4/1x64", "e4m3fn/row"), ("dynamic8/row", "dynamic8"), ("udynamic8", "nf4/row"), ("e5m2/row", "udynamic8/1x32"),
)  # fmt: skip


def _operand(
    rng: np.random.Generator, rows: int, cols: int, scheme: str, device: str, turned: bool
) -> tuple[Tensor, Tensor]:
    """Codes and scale of normal numbers; column-major, both of them, if `turned`."""
    q = quantize_reference(rng.standard_normal((rows, cols)).astype(np.float32), scheme)
    spec = q.scheme
    codes, scale = torch.from_numpy(q.codes).to(device), stored_scale(q).to(device)
    if spec.two_level:
        scale = factors_of(scale, torch.from_numpy(q.outer).to(device), spec, cols)
    return (codes.t().contiguous().t(), scale.t().contiguous().t()) if turned else (codes, scale)


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def sample(
        pair: tuple[str, str],
        m: int,
        n: int,
        k: int,
        turned: str = "",
        bias: bool = False,
        out: torch.dtype = torch.float32,
    ) -> Sample:
        a = _operand(rng, m, k, pair[0], device, "a" in turned)
        b = _operand(rng, n, k, pair[1], device, "b" in turned)
        added = torch.from_numpy(rng.standard_normal(n).astype(np.float32)).to(device) if bias else None
        name = f"{pair[0]} × {pair[1]} {m}x{n}x{k} {turned}{' bias' if bias else ''} {out}"
        return Sample(name, (*a, *b, *pair, added, out))

    main = (*SAMPLE_PAIRS[:4], ("e5m2/row", "e4m3fn/row"), ("int8/row", "int8"), ("rf8/row", "rf8"))
    for pair in SAMPLE_PAIRS:
        yield sample(pair, 37, 29, 160)
    for index, pair in enumerate(main):
        out = (torch.bfloat16, torch.float16, torch.float32)[index % 3]
        yield sample(pair, 130, 71, 300, ("ab", "a", "b")[index % 3], bias=True, out=out)
        for m, n, k in ((1, 1, 1), (1, 131, 127), (67, 1, 33), (5, 7, 0), (0, 3, 16), (3, 0, 16)):
            yield sample(pair, m, n, k, bias=index % 2 == 0)
    yield sample(("int8/row", "int8/row"), 3, 5, 2500)
    for pair in (("e4m3fn/row", "e4m3fn/128x128"), ("int8/8x8", "int8"), ("mxfp8", "e4m3fn")):
        codes, scale, *rest = sample(pair, 20, 9, 96).args
        scale = scale.clone()
        scale[1] = 0xFF if scale.dtype == torch.uint8 else float("nan")
        yield Sample(f"{pair[0]} × {pair[1]} with a NaN scale", (codes, scale, *rest))
    every = torch.arange(256, dtype=torch.uint8, device=device).reshape(16, 16)
    one = torch.ones((1, 1), device=device)
    for scheme in ("e4m3fn", "e5m2", "e5m2fnuz", "rf8", "e3m4"):
        yield Sample(f"every code of {scheme}", (every, one, every.t(), one, scheme, scheme, None, torch.float32))
    whole = _operand(rng, 40, 300, "e4m3fn", device, False)
    part = whole[0][::2, 7:200:3]
    yield Sample("strided", (part, whole[1], part, whole[1], "e4m3fn", "e4m3fn", None, torch.float32))


def _cost(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    out_dtype: torch.dtype, activation: str = "none",
) -> Cost:  # fmt: skip
    (m, k), n = a.shape, b.shape[0]
    read = sum(
        tensor.numel() * tensor.element_size() for tensor in (a, a_scale, b, b_scale, bias) if tensor is not None
    )
    return Cost(flops=2.0 * m * n * k, bytes=float(read + m * n * out_dtype.itemsize))


GEMM = register(
    Op(
        name="scaled_gemm",
        schema="(Tensor a, Tensor a_scale, Tensor b, Tensor b_scale, str a_scheme, str b_scheme, Tensor? bias, "
        'ScalarType out_dtype, str activation="none") -> Tensor',
        reference=reference,
        torch_impl=scaled_gemm_torch,
        triton_impl=scaled_gemm_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=ErrorBound(tolerance),
        compile_cases=compile_cases,
        unsupported=_unsupported,
    )
)
