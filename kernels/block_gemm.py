"""block_scaled_gemm: the product of two block-scaled matrices, by matrix units that take codes and scales themselves.

    out[m, n] = outer_a · outer_b · Σ_k dec(a[m, k]) · s_a[m, k div G] · dec(b[n, k]) · s_b[n, k div G]  (+ bias[n])

`torch.ops.narrowgauge.block_scaled_gemm(a, a_scale, a_outer, b, b_scale, b_outer, a_scheme, b_scheme, packed, bias,
out_dtype) -> Tensor`
  a, b      [M, K] and [N, K] uint8 codes, any strides. packed: whether those of 4 bits lie two a byte, the first in
            the low nibble (`kernels/packing.py`), [M, ceil(K / 2)]; where both are packed K is taken to be even
  a_scale   uint8 scale codes as `quantize` stores them: [M, ceil(K / G)], or the same bytes in the 1-D layout "128x4"
            of `kernels/swizzle.py`, padded with zeros; b_scale likewise, in the same layout or not
  a_outer   [] float32, the second scale of NVFP4, for MX None; b_outer likewise
  schemes   OCP MX v1.0 (G = 32, E8M0 scales): mxfp8, mxfp8_e5m2, mxfp6, mxfp6_e3m2, mxfp4, any two of them; or nvfp4
            (G = 16, E4M3 scales) with itself
  bias      [N] floating, or None
  out       [M, N] float32, bfloat16 or float16 (out_dtype), contiguous
Other schemes are `scaled_gemm`'s. `kernels/_block_gemm_plan.py` says what a target multiplies with. 6-bit codes come
one a byte, as all kernels have them.

A decoded value times its block's scale is taken to be a normal float32 number, or zero: beyond that (scales near 2^127
or 2^-127) some implementations saturate to infinity or lose digits. Sums are float32; the CPU decodes to float32 and
calls the BLAS.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, pack, parse, quantize_reference, unpack
from narrowgauge.formats.tiles import spread
from narrowgauge.kernels import _block_gemm_triton as kernels
from narrowgauge.kernels._block_gemm_cases import compile_cases
from narrowgauge.kernels._block_gemm_checks import TILED, check
from narrowgauge.kernels._block_gemm_plan import block_of
from narrowgauge.kernels._gemm_plan import INTERPRETER, target_of
from narrowgauge.kernels.dequantize import factors_of
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.kernels.op import Cost, ErrorBound, Op, Sample, register
from narrowgauge.kernels.swizzle import offsets, padded_shape, unswizzle_scales_torch
from narrowgauge.numerics import gamma, gemm_bound


def _plain(codes: Tensor, scale: Tensor, outer: Tensor | None, spec: Scheme, packed: bool, k: int) -> list[Tensor]:
    """Codes one a byte and scales as `scaled_gemm` takes them."""
    if packed:
        codes = torch.stack((codes & 0xF, codes >> 4), dim=2).flatten(1)[:, :k]
    if scale.dim() == 1:
        scale = unswizzle_scales_torch(scale, codes.shape[0], -(-k // block_of(spec)), TILED)
    return [codes, scale if outer is None else factors_of(scale, outer.reshape(()), spec, k)]


def block_scaled_gemm_torch(
    a: Tensor, a_scale: Tensor, a_outer: Tensor | None, b: Tensor, b_scale: Tensor, b_outer: Tensor | None,
    a_scheme: str, b_scheme: str, packed: bool, bias: Tensor | None, out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The CPU implementation: scaled_gemm on codes one a byte and scales by rows."""
    specs, sides, k = check(a, a_scale, a_outer, b, b_scale, b_outer, a_scheme, b_scheme, packed, bias, out_dtype)
    x = _plain(a, a_scale, a_outer, specs[0], sides[0], k)
    y = _plain(b, b_scale, b_outer, specs[1], sides[1], k)
    out: Tensor = GEMM.torch_impl(*x, *y, a_scheme, b_scheme, bias, out_dtype)
    return out


def block_scaled_gemm_triton(
    a: Tensor, a_scale: Tensor, a_outer: Tensor | None, b: Tensor, b_scale: Tensor, b_outer: Tensor | None,
    a_scheme: str, b_scheme: str, packed: bool, bias: Tensor | None, out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The GPU implementation; on CPU tensors it runs in Triton's interpreter."""
    specs, sides, k = check(a, a_scale, a_outer, b, b_scale, b_outer, a_scheme, b_scheme, packed, bias, out_dtype)
    return kernels.launch(a, a_scale, a_outer, b, b_scale, b_outer, specs, sides, k, bias, out_dtype)


def _fake(
    a: Tensor, a_scale: Tensor, a_outer: Tensor | None, b: Tensor, b_scale: Tensor, b_outer: Tensor | None,
    a_scheme: str, b_scheme: str, packed: bool, bias: Tensor | None, out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    check(a, a_scale, a_outer, b, b_scale, b_outer, a_scheme, b_scheme, packed, bias, out_dtype)
    return a.new_empty((a.shape[0], b.shape[0]), dtype=out_dtype)


def _dequantized(
    codes: Tensor, scale: Tensor, outer: Tensor | None, spec: Scheme, packed: bool, k: int
) -> NDArray[np.float64]:
    """float64 values, by the definitions of `narrowgauge.formats` alone."""
    assert isinstance(spec.format, BlockFormat)
    array, grid = codes.cpu().numpy(), np.ascontiguousarray(scale.cpu().numpy())
    elements = unpack(array, 4, k) if packed else array
    if grid.ndim == 1:
        grid = grid[offsets(codes.shape[0], -(-k // block_of(spec)), TILED)]
    factors = spec.format.scale_format.decode(grid) * (1.0 if outer is None else float(outer))
    return spec.element.decode(elements) * spread(factors, spec.factor_tile, elements.shape)


def _operands(*args: object) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, a_scale, a_outer, b, b_scale, b_outer = args[:6]
    specs, sides, k = check(*args)  # type: ignore[arg-type]
    x = _dequantized(a, a_scale, a_outer, specs[0], sides[0], k)  # type: ignore[arg-type]
    y = _dequantized(b, b_scale, b_outer, specs[1], sides[1], k)  # type: ignore[arg-type]
    return x, y


def _reference(*args: object) -> Tensor:
    """The float64 product of the dequantised operands, in float64 whatever out_dtype."""
    x, y = _operands(*args)
    bias = args[9]
    with np.errstate(invalid="ignore"):
        out = torch.from_numpy(x @ y.T)
    return out + bias.double().cpu() if isinstance(bias, Tensor) else out


def _tolerance(*args: object) -> Tensor:
    """|out - reference| at most, for every order of summation; 0 where the result is not finite.

    K products and sums in float32 and at most six roundings more: each scale times its outer scale, that times the
    value, on both sides; the outer scales after the sum; the bias. Matrix units truncate, which doubles the unit
    roundoff. The reference's own sum is float64.
    """
    x, y = (np.nan_to_num(side, posinf=0.0, neginf=0.0) for side in _operands(*args))
    a, bias, out_dtype = args[0], args[9], args[10]
    assert isinstance(a, Tensor)
    assert isinstance(out_dtype, torch.dtype)
    info = torch.finfo(out_dtype)
    roundoff = 2.0**-24 if target_of(a.device) == INTERPRETER else 2.0**-23
    magnitude = np.abs(x) @ np.abs(y).T
    reference = gamma(x.shape[1], 2.0**-53) * magnitude
    if isinstance(bias, Tensor):
        magnitude = magnitude + np.abs(bias.double().cpu().numpy())
    bound = gemm_bound(
        x.shape[1],
        magnitude,
        unit_roundoff=roundoff,
        extra_roundings=6,
        out_unit_roundoff=0.0 if out_dtype == torch.float32 else info.eps / 2,
    )
    return torch.from_numpy(bound + reference + info.smallest_normal * info.eps / 2)


PAIRS = (
    ("mxfp8", "mxfp8"), ("mxfp8_e5m2", "mxfp8"), ("mxfp4", "mxfp4"), ("mxfp8", "mxfp4"), ("mxfp4", "mxfp8_e5m2"),
    ("mxfp6", "mxfp6_e3m2"), ("mxfp6", "mxfp4"), ("nvfp4", "nvfp4"),
)  # fmt: skip


def _operand(
    rng: np.random.Generator, rows: int, k: int, scheme: str, packed: bool, tiled: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes, scale and outer scale of normal numbers."""
    q = quantize_reference(rng.standard_normal((rows, k)).astype(np.float32), scheme)
    codes = torch.from_numpy(pack(q.codes, 4) if packed and q.scheme.element.bits == 4 else q.codes)
    scale = np.asarray(q.scale)
    if tiled:
        shape = scale.shape[0], scale.shape[1]
        tiles = np.zeros(prod(padded_shape(*shape, TILED)), np.uint8)
        tiles[offsets(*shape, TILED)] = scale
        scale = tiles
    return codes, torch.from_numpy(scale), torch.from_numpy(q.outer) if q.scheme.two_level else None


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def there(values: tuple[object, ...]) -> list[object]:
        return [value.to(device) if isinstance(value, Tensor) else value for value in values]

    def sample(pair: tuple[str, str], m: int, n: int, k: int, packed: bool = False, tiled: str = "", bias: bool = False,
               out: torch.dtype = torch.float32) -> Sample:  # fmt: skip
        packed = packed and any(parse(scheme).element.bits == 4 for scheme in pair)
        a = _operand(rng, m, k, pair[0], packed, "a" in tiled)
        b = _operand(rng, n, k, pair[1], packed, "b" in tiled)
        added = torch.from_numpy(rng.standard_normal(n).astype(np.float32)) if bias else None
        name = f"{pair[0]} × {pair[1]} {m}x{n}x{k}{' packed' if packed else ''} {tiled} {bias} {out}"
        return Sample(name, tuple(there((*a, *b, *pair, packed, added, out))))

    for index, pair in enumerate(PAIRS):
        yield sample(pair, 37, 29, 160)
        yield sample(pair, 30, 50, 200, packed=True, tiled=("ab", "a", "b")[index % 3])
    for pair in (("mxfp8", "mxfp8"), ("mxfp8", "mxfp4"), ("nvfp4", "nvfp4")):
        out = torch.bfloat16 if pair[0] == "mxfp8" else torch.float16
        yield sample(pair, 140, 131, 330, packed=True, tiled="ab", bias=True, out=out)
        for m, n, k in ((1, 1, 2), (1, 131, 126), (67, 1, 34), (5, 7, 0), (0, 3, 16), (3, 0, 16)):
            yield sample(pair, m, n, k, packed=True, tiled="ab" if m == 67 else "")
    yield sample(("mxfp8", "mxfp4"), 5, 6, 33, packed=True)
    yield sample(("nvfp4", "nvfp4"), 5, 6, 33)
    for tiled in ("", "a"):
        a, scale, *rest = sample(("mxfp8", "mxfp8"), 20, 9, 96, tiled=tiled).args
        scale.view(-1)[1] = 0xFF  # row 0 by rows, tiled too
        yield Sample(f"a NaN scale {tiled}", (a, scale, *rest))
    every = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    ones = torch.full((16, 1), 127, dtype=torch.uint8)
    for scheme in ("mxfp8", "mxfp8_e5m2"):
        yield Sample(f"every code of {scheme}", tuple(there((every, ones, None, every.t(), ones, None, scheme, scheme,
                                                             False, None, torch.float32))))  # fmt: skip


def _cost(
    a: Tensor, a_scale: Tensor, a_outer: Tensor | None, b: Tensor, b_scale: Tensor, b_outer: Tensor | None,
    a_scheme: str, b_scheme: str, packed: bool, bias: Tensor | None, out_dtype: torch.dtype,
) -> Cost:  # fmt: skip
    halved = packed and parse(a_scheme).element.bits == 4
    m, n, k = a.shape[0], b.shape[0], a.shape[1] * (2 if halved else 1)
    read = sum(tensor.nbytes for tensor in (a, a_scale, b, b_scale, bias) if tensor is not None)
    return Cost(flops=2.0 * m * n * k, bytes=float(read + m * n * out_dtype.itemsize))


BLOCK_GEMM = register(
    Op(
        name="block_scaled_gemm",
        schema="(Tensor a, Tensor a_scale, Tensor? a_outer, Tensor b, Tensor b_scale, Tensor? b_outer, str a_scheme, "
        "str b_scheme, bool packed, Tensor? bias, ScalarType out_dtype) -> Tensor",
        reference=_reference,
        torch_impl=block_scaled_gemm_torch,
        triton_impl=block_scaled_gemm_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=ErrorBound(_tolerance),
        compile_cases=compile_cases,
        unsupported=GEMM.unsupported,
    )
)
