"""`QuantizedTensor`, `quantize`, `fake_quantize` and `gemm`: the operators as users call them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.formats.rounding import choice
from narrowgauge.kernels._quantize_torch import check_input
from narrowgauge.kernels.dequantize import DEQUANTIZE, block_factors
from narrowgauge.kernels.policy import NonFinite, apply_saturation, raise_if_not_finite
from narrowgauge.kernels.quantize import QUANTIZE, QUANTIZE_TRACEABLE
from narrowgauge.kernels.requantize import REQUANTIZE


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """x ≈ decode(codes) · scale (· outer). A plain record, registered as a pytree; not a tensor subclass.

    codes: the shape of x, uint8 (int8 for signed integers). scale: `Scheme.scale_shape`, float32, or scale codes for
    block formats (uint8, int16 or int32 by their width). outer: [] float32, the per-tensor scale of two-level
    formats, else 1. text: the scheme. dtype: of the original.
    """

    codes: Tensor
    scale: Tensor
    outer: Tensor
    text: str
    dtype: torch.dtype

    @property
    def scheme(self) -> Scheme:
        """The scheme whose text is `text`."""
        return parse(self.text)

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor that was quantised."""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes held: codes (one byte each), scales, and the outer scale of a two-level format."""
        return self.codes.nbytes + self.scale.nbytes + (self.outer.nbytes if self.scheme.two_level else 0)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """decode(codes) · scale in `dtype` (default: the original's), rounded once from float32. TypeError for a dtype
        of integers."""
        target = self.dtype if dtype is None else dtype
        if not target.is_floating_point:
            raise TypeError(f"dtype: expected a floating one, got {str(target).removeprefix('torch.')}")
        return dequantize_raw(self.codes, self.scale, self.outer, self.text, target)

    def factors(self) -> Tensor:
        """float32 factor of every tile of `scheme.factor_tile`, [tiles down, tiles across]: scale and outer decoded.
        `scaled_gemm` takes them in the place of the scale codes of a block format."""
        return block_factors(self.scale, self.outer, self.text, self.shape[-1] if self.shape else 1)

    def requantize(
        self, scheme: Scheme | str, seed: int | None = None, *, offset: int = 0, turned: bool = False
    ) -> QuantizedTensor:
        """`quantize(self.dequantize(torch.float32), scheme)` without that tensor in memory on a GPU; turned: of its
        transpose, [K, M] with contiguous codes. seed, offset: the random stream of a `+sr` scheme."""
        text = canonical(scheme)
        number = check_seed(text, seed)
        codes, scale, outer = REQUANTIZE(self.codes, self.scale, self.outer, self.text, text, turned, number, offset)
        return QuantizedTensor(codes, scale, outer, text, self.dtype)

    def transpose(self) -> QuantizedTensor:
        """The matrix [M, K] as its transpose [K, M], every value as it is: codes and scales change places, and so do
        the sides of the tile in the scheme (row becomes col, 1x128 becomes 128x1).

        ValueError unless it has two axes, and for block formats whose blocks are not square.
        """
        if self.codes.dim() != 2:
            raise ValueError(f"shape: a transpose has two axes, got {tuple(self.shape)}")
        spec = self.scheme
        if isinstance(spec.format, BlockFormat):
            if spec.tile[0] != spec.tile[1] or spec.factor_tile != spec.tile:
                raise ValueError(
                    f"scheme: blocks of {spec.format.name} are {spec.granularity}, which no scheme turns; accepted: "
                    "square blocks, or `requantize` with turned=True"
                )
        else:
            spec = replace(spec, tile=(spec.tile[1], spec.tile[0]))
        codes, scale = self.codes.t().contiguous(), self.scale.t().contiguous()
        return QuantizedTensor(codes, scale, self.outer, str(spec), self.dtype)

    def __repr__(self) -> str:
        return (
            f"QuantizedTensor({self.scheme}, shape={tuple(self.shape)}, dtype={self.dtype}, "
            f"device={self.codes.device}, nbytes={self.nbytes})"
        )


def _flatten(q: QuantizedTensor) -> tuple[list[Any], Any]:
    return [q.codes, q.scale, q.outer], (q.text, q.dtype)


def _unflatten(children: Any, context: Any) -> QuantizedTensor:
    return QuantizedTensor(*children, *context)


pytree.register_pytree_node(
    QuantizedTensor, _flatten, _unflatten, serialized_type_name="narrowgauge.kernels.tensor.QuantizedTensor"
)


def canonical(scheme: Scheme | str) -> str:
    """The scheme as text, in its canonical form; compilers get the text as it is, to keep it a constant."""
    if torch.compiler.is_compiling() and isinstance(scheme, str):
        return scheme
    return str(parse(scheme))


def check_seed(scheme: str, seed: int | None) -> int:
    """The seed of a stochastic scheme, 0 for others. ValueError if one is needed or out of range, TypeError if it is no
    integer."""
    if seed is None:
        if "+sr" in scheme:
            raise ValueError(f"seed: stochastic scheme '{scheme}' needs an explicit seed, got None")
        return 0
    if isinstance(seed, float | str):
        raise TypeError(f"seed: expected an integer, got {seed!r}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected 0 <= seed < 2**63, got {seed}")
    return seed


def quantize_raw(x: Tensor, scheme: str, seed: int = 0, offset: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, scale, outer) through the dispatcher; while a compiler traces for the CPU, the formula itself, so that
    it fuses with what surrounds it. The bits are the same."""
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        traced: tuple[Tensor, Tensor, Tensor] = QUANTIZE_TRACEABLE(x, scheme, seed, offset)
        return traced
    result: tuple[Tensor, Tensor, Tensor] = QUANTIZE(x, scheme, seed, offset)
    return result


def dequantize_raw(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Tensor:
    """decode(codes) · scale through the dispatcher; float64 by way of float32."""
    wide = torch.float32 if dtype == torch.float64 else dtype
    result: Tensor = DEQUANTIZE(codes, scale, outer, scheme, wide)
    return result.to(dtype)


def quantize(
    x: Tensor,
    scheme: Scheme | str,
    seed: int | None = None,
    *,
    offset: int = 0,
    nonfinite: NonFinite | str = NonFinite.PROPAGATE,
) -> QuantizedTensor:
    """Quantises `x` (float32/64/16 or bfloat16, any shape and strides) under a scheme such as "e4m3fn/row".

    seed, offset: the random stream of `+sr` schemes; equal ones give equal bits on every device.
    nonfinite: `propagate` (default): a group with a NaN or an infinity decodes to NaN, other groups are untouched;
    `saturate`: infinities become the largest value of their sign, and the group's scale is that of its finite values
    (a NaN still spoils its group); `raise`: ValueError.

    scheme: its text, or a `Scheme` of any format of at most 8 bits, registered or not: using it makes its name known.

    Raises ValueError for unknown schemes, missing seeds and formats that no kernel serves; TypeError for other dtypes.
    """
    check_input(x)
    text = canonical(scheme)
    number = check_seed(text, seed)
    policy = choice(NonFinite, nonfinite, "nonfinite")
    x = x.detach()
    if policy is NonFinite.RAISE:
        raise_if_not_finite(x)
    if policy is NonFinite.SATURATE:
        codes, scale, outer = quantize_raw(torch.where(torch.isinf(x), 0.0, x), text, number, offset)
        codes = apply_saturation(codes, x, parse(text))
    else:
        codes, scale, outer = quantize_raw(x, text, number, offset)
    return QuantizedTensor(codes, scale, outer, text, x.dtype)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scheme: str, seed: int, offset: int, clipped: bool) -> Tensor:
        codes, scale, outer = quantize_raw(x, scheme, seed, offset)
        if clipped:
            element = parse(scheme).element
            high, low = (
                dequantize_raw(torch.full_like(codes, int(code)), scale, outer, scheme, torch.float32)
                for code in element.encode([element.max, element.min])
            )
            ctx.save_for_backward((x.float() <= high) & (x.float() >= low))
        ctx.clipped = clipped
        return dequantize_raw(codes, scale, outer, scheme, x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if ctx.clipped:
            (inside,) = ctx.saved_tensors
            grad = grad * inside
        return grad, None, None, None, None


def fake_quantize(
    x: Tensor, scheme: Scheme | str, ste: str = "identity", seed: int | None = None, *, offset: int = 0
) -> Tensor:
    """`dequantize(quantize(x))` with a straight-through gradient; shape, dtype and device of x.

    ste: `identity` passes the gradient everywhere, `clipped` only where x is within the scheme's range (the two differ
    for rules that clip, such as `floor`, `even`, `static`, `percentile`, and for formats that are not symmetric).
    """
    check_input(x)
    text = canonical(scheme)
    if ste not in ("identity", "clipped"):
        raise ValueError(f"ste: got {ste!r}, accepted: identity, clipped")
    result: Tensor = _FakeQuantize.apply(x, text, check_seed(text, seed), offset, ste == "clipped")
    return result
