"""The operands of a layer's matrix products: quantised as their slot says, multiplied, and read back.

An operand [rows, reduction] is either coded, codes with scales that the scaled GEMM takes as they are, or a matrix of
values: an empty slot, a format of more than 8 bits, or stages that add to the codes' values. A product of two coded
operands runs in the scaled GEMM; any other in high precision on the dequantised values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.operand import AnyScheme, OperandScheme, base_scheme, parse_operand, unscaled
from narrowgauge.formats.stages import Draw
from narrowgauge.kernels._block_gemm_checks import takes_scales
from narrowgauge.kernels._gemm_plan import target_of
from narrowgauge.kernels.block_gemm import BLOCK_GEMM
from narrowgauge.kernels.dequantize import block_factors
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.kernels.layout import CODE_BITS, layout_of
from narrowgauge.kernels.quantize_pair import QUANTIZE_PAIR
from narrowgauge.kernels.tensor import dequantize_raw, quantize_raw
from narrowgauge.kernels.wide import round_values
from narrowgauge.nn.accumulate import accumulate
from narrowgauge.nn.stages import STAGES
from narrowgauge.nn.stages.rotation import rotated_back, sign_vector


class Operand(NamedTuple):
    """values [rows, reduction]: codes of `scheme` with scale and outer scale, or plain values where scheme is None.
    gain: by how much the codes' values are too large."""

    values: Tensor
    scale: Tensor | None = None
    outer: Tensor | None = None
    scheme: str | None = None
    gain: float = 1.0


def is_coded(spec: AnyScheme) -> bool:
    """Whether operands of the slot are codes for the scaled GEMM."""
    return base_scheme(spec).element.bits <= CODE_BITS and (isinstance(spec, Scheme) or spec.coded)


def has_codes(text: str | None) -> bool:
    """`is_coded` of a slot's text, None for an empty one."""
    return text is not None and is_coded(parse_operand(text))


_INTEGERS: dict[str, bool] = {}
"""Of texts of coded operands whether their elements are integers. A plain dict: compilers see through it."""


def are_integers(text: str) -> bool:
    """Whether the codes of a scheme are integers for the kernels. Plans ask for all of theirs, before tracing."""
    if text not in _INTEGERS:
        element = base_scheme(parse_operand(text)).element
        _INTEGERS[text] = element.bits <= CODE_BITS and layout_of(element).kind == "int"
    return _INTEGERS[text]


def multiplies(a: str | None, b: str | None) -> bool:
    """Whether the scaled GEMM takes codes of the two schemes: integers with each other, the rest with each other."""
    return a is not None and b is not None and are_integers(a) == are_integers(b)


def code_text(spec: AnyScheme, scaled: bool) -> str:
    """The scheme of an operand's codes; scaled: by the scale that a stateful rule has given."""
    if isinstance(spec, Scheme):
        return str(spec)
    return str(unscaled(spec.scheme)) if scaled else str(spec.scheme)


def make_operand(x: Tensor, text: str | None, draw: Draw, scale: Tensor | None = None) -> Operand:
    """The operand of x [rows, reduction] under the slot `text`, None for x as it is. scale: the float32 scalar that a
    stateful rule has given."""
    if text is None:
        return Operand(x)
    spec = parse_operand(text)
    if isinstance(spec, Scheme):
        if not is_coded(spec):
            return Operand(round_values(x, text, draw.seed, draw.offset))
        return Operand(*quantize_raw(x, text, draw.seed, draw.offset), scheme=text)
    u, memos = x if spec.scaling and len(spec.stages) == 0 else x.float(), []
    for stage in spec.stages:
        u, memo = STAGES[type(stage)][0](stage, u, spec.scheme, draw)
        memos.append(memo)
    base = _quantized(u, spec, draw, scale)
    if is_coded(spec):
        return base._replace(gain=spec.gain)
    values = dequantized(base, torch.float32)
    for stage, memo in zip(reversed(spec.stages), reversed(memos), strict=True):
        values = STAGES[type(stage)][1](stage, values, memo)
    return Operand(values)


def one_read_pays(x: Tensor) -> bool:
    """Whether making two copies of x from one read is quicker: where reading it takes the time, on a GPU."""
    return x.device.type == "cuda"


def make_both(
    x: Tensor, text: str | None, turned: str | None, draw: Draw, turned_draw: Draw
) -> tuple[Operand, Operand] | None:
    """The operands of x [rows, columns] under `text` and of its transpose under `turned`, from one read of x; None
    where one of them has stages or no codes, or there is nothing to gain. Both draws have one seed."""
    if text is None or turned is None or not one_read_pays(x):
        return None
    specs = parse_operand(text), parse_operand(turned)
    if not all(isinstance(spec, Scheme) and is_coded(spec) for spec in specs):
        return None
    six = QUANTIZE_PAIR(x, text, turned, draw.seed, draw.offset, turned_draw.offset)
    return Operand(six[0], six[1], six[2], text), Operand(six[3], six[4], six[5], turned)


def _quantized(u: Tensor, spec: OperandScheme, draw: Draw, scale: Tensor | None) -> Operand:
    """u under the scheme, or under the scale that was given: codes of u · (1 / scale)."""
    text, coded = code_text(spec, scale is not None), spec.scheme.element.bits <= CODE_BITS
    y = u if scale is None else u.float() * torch.reciprocal(scale)
    if not coded:
        values = round_values(y, text, draw.seed, draw.offset)
        return Operand(values if scale is None else values * scale)
    codes, factor, outer = quantize_raw(y, text, draw.seed, draw.offset)
    return Operand(codes, factor if scale is None else factor * scale, outer, text)


def dequantized(operand: Operand, dtype: torch.dtype) -> Tensor:
    """The operand's values, gain undone."""
    if operand.scheme is None or operand.scale is None or operand.outer is None:
        return operand.values.to(dtype)
    values = dequantize_raw(operand.values, operand.scale, operand.outer, operand.scheme, dtype)
    return values if operand.gain == 1.0 else values * (1.0 / operand.gain)


def restored(operand: Operand, text: str | None, draw: Draw, columns: int, dtype: torch.dtype) -> Tensor:
    """The operand's values in the basis of the matrix that was quantised: a rotation turned back."""
    spec = None if text is None else parse_operand(text)
    rotation = spec.rotation if isinstance(spec, OperandScheme) else None
    if rotation is None:
        return dequantized(operand, dtype)
    values = dequantized(operand, torch.float32)
    return rotated_back(values, rotation.size, sign_vector(rotation, draw, values.device), columns).to(dtype)


def by_blocks(a: str | None, b: str | None, device: torch.device) -> bool:
    """Whether the device's matrix units take codes of both schemes with the scales of their blocks (MX, NVFP4)."""
    return device.type == "cuda" and a is not None and b is not None and _by_blocks(a, b, device)


@torch.compiler.assume_constant_result
def _by_blocks(a: str, b: str, device: torch.device) -> bool:
    """Compilers take the answer for this device as it is: they cannot see into its driver."""
    return takes_scales(a, b, target_of(device))


def _outer(operand: Operand) -> Tensor | None:
    """The second scale, of formats that have one."""
    return operand.outer if operand.scheme is not None and parse(operand.scheme).two_level else None


def _gemm_scale(operand: Operand) -> Tensor | None:
    """The scale as the scaled GEMM takes it: factors where a second scale for the whole tensor belongs to it."""
    if operand.scale is None or operand.outer is None or operand.scheme is None:
        return operand.scale
    if not parse(operand.scheme).two_level:
        return operand.scale
    return block_factors(operand.scale, operand.outer, operand.scheme, operand.values.shape[1])


def gemm(
    a: Operand,
    b: Operand,
    bias: Tensor | None,
    dtype: torch.dtype,
    accumulator: str | None = None,
    draw: Draw | None = None,
) -> Tensor:
    """a [M, K] · b [N, K]ᵀ (+ bias [N]) in `dtype`. Both coded: the scaled GEMM; else in high precision on the
    dequantised values. accumulator: the text of an emulated one, see `nn.accumulate`."""
    if accumulator is not None:
        here = draw or Draw()
        first, second = (dequantized(operand, torch.float32) for operand in (a, b))
        return with_bias(accumulate(first, second, accumulator, here.seed, here.offset), bias, dtype)
    if not multiplies(a.scheme, b.scheme):
        work = _working_dtype(a, b, dtype)
        return with_bias(dequantized(a, work) @ dequantized(b, work).t(), bias, dtype)
    undo = a.gain * b.gain
    plain = undo == 1.0
    out, added = torch.float32 if dtype == torch.float64 or not plain else dtype, bias if plain else None
    if by_blocks(a.scheme, b.scheme, a.values.device):
        sides = [side for operand in (a, b) for side in (operand.values, operand.scale, _outer(operand))]
        result = BLOCK_GEMM(*sides, a.scheme, b.scheme, False, added, out)
    else:
        result = GEMM(a.values, _gemm_scale(a), b.values, _gemm_scale(b), a.scheme, b.scheme, added, out)
    return result.to(dtype) if plain else with_bias(result * (1.0 / undo), bias, dtype)


def with_bias(y: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """y [M, N] (+ bias [N]) in `dtype`, added in y's own precision."""
    return (y if bias is None else y + bias.to(y.dtype)).to(dtype)


def _working_dtype(a: Operand, b: Operand, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, the precision of an empty slot; float32 where `dtype` would round values that are quantised already."""
    if dtype == torch.float64:
        return dtype
    emulated = any(operand.scheme is None and operand.values.dtype != dtype for operand in (a, b))
    both_coded = a.scheme is not None and b.scheme is not None
    return torch.float32 if emulated or both_coded else dtype
