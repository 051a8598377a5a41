"""The optimizer step of one block as a function that torch.compile fuses: rules, masters and codecs without a loop or a
branch on data. Rules: kernels/step_rules.py; stored moments: `_moments_pure.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels._draws_torch import mix_words
from narrowgauge.kernels._masters_torch import HALF_ULP, RESIDUAL_STEPS
from narrowgauge.kernels._moments_pure import decode_rows, encode_rows
from narrowgauge.kernels._pure_codec import PureCodec
from narrowgauge.kernels._pure_math import (
    INFINITY_BITS,
    LARGE_BITS,
    SIGN_BIT,
    SMALLEST_BITS,
    bfloat16_values,
    magnitude_bits,
)
from narrowgauge.kernels.step_rules import Row


class Numbers(NamedTuple):
    """Of a step, as float32 scalars: see `numbers_of`."""

    lr: Tensor
    kept: Tensor
    decay: Tensor
    a: Tensor
    not_a: Tensor
    b: Tensor
    not_b: Tensor
    eps: Tensor
    size: Tensor
    root: Tensor
    gradient: Tensor


def numbers_of(row: Row, sign: float) -> Tensor:
    """`Numbers` of a row, one float32 tensor; sign: of the gradient."""
    return torch.tensor((
        row.lr, 1.0 - row.lr * row.weight_decay, row.weight_decay, row.a, 1.0 - row.a, row.b, 1.0 - row.b, row.eps,
        row.lr / row.c1, row.c2**-0.5, sign * row.grad_scale,
    ))  # fmt: skip


class Operands(NamedTuple):
    """A block as [rows, groups, group]: of the smaller group, with the larger one a row. p, g and `plain` moments:
    float32. Codes lie one in a byte; numbers are [rows, groups or 1, columns], those of `log` one int32.

    words: the table of draws, one word an element. halves, [group]: what moves the half that an element takes to the
    top. keys: int32, of m, v, the parameter, and of reading m and v. All None where nothing draws.
    numbers: `Numbers`.
    """

    p: Tensor
    g: Tensor
    m: Tensor | None
    m_scale: Tensor | None
    v: Tensor | None
    v_scale: Tensor | None
    residual: Tensor | None
    words: Tensor | None
    halves: Tensor | None
    keys: Tensor | None
    numbers: Tensor


def block_step(
    rule: str, first: PureCodec | None, second: PureCodec | None, master: str, skip_nonfinite: bool
) -> Callable[..., None]:
    """The step of a block, in place, of what `Operands` names, one by one. A parameter of fewer bits than float32 is
    left as float32 of its values (master "none": to be rounded)."""
    update_states, update_parameter = UPDATES[rule]

    def step(*operands: Tensor | None) -> None:
        x = Operands(*operands)  # type: ignore[arg-type]  # Operands says which may be None
        numbers = Numbers(*x.numbers.unbind())
        p = x.p
        if x.residual is not None:
            p = p + x.residual.float() * (HALF_ULP / RESIDUAL_STEPS) * _power(p)
        old_m, v = (moment.clone() for moment in _read(first, second, x))  # `plain` ones are what is written below
        g = x.g * numbers.gradient
        if skip_nonfinite:
            g = torch.where(torch.isfinite(g), g, 0.0)
        m, v = update_states(p, g, old_m, v, numbers)
        _write(first, second, x, m, v)
        _write_parameter(master, x, update_parameter(p, Fresh(g, old_m, m, v), numbers))

    return step


def _draws(x: Operands, which: int) -> Tensor:
    if x.words is None or x.halves is None or x.keys is None:
        raise ValueError("words: expected a table and keys where something draws, got none")
    # Around zero, because a signed number is what the top of an int32 is.
    upper = ((mix_words(x.words ^ x.keys[which]) * x.halves) ^ SIGN_BIT) & -0x10000
    return upper.float() * 2.0**-32 + (0.5 + 2.0**-17)


def _read(first: PureCodec | None, second: PureCodec | None, x: Operands) -> tuple[Tensor, Tensor]:
    """m and v; p where there is none."""
    m = v = root = x.p
    if second is not None and x.v is not None:
        v = decode_rows(second, x.v, x.v_scale, _draws(x, 4) if second.rounding == "dither" else None)
        if second.kind == "log":
            root, v = v, v * v
        elif first is not None and first.whitened:
            root = v.sqrt()
    if first is not None and x.m is not None:
        m = decode_rows(first, x.m, x.m_scale, _draws(x, 3) if first.rounding == "dither" else None)
        if first.whitened:
            m = m * root
    return m, v


def _write(first: PureCodec | None, second: PureCodec | None, x: Operands, m: Tensor, v: Tensor) -> None:
    if second is not None and x.v is not None:
        whiten = first is not None and first.whitened
        codes, scale, inverse = encode_rows(second, v, _draws(x, 1) if second.draws else None, whiten)
        _store(codes, scale, x.v, x.v_scale)
        if inverse is not None:
            m = m * inverse
    if first is not None and x.m is not None:
        codes, scale, _ = encode_rows(first, m, _draws(x, 0) if first.draws else None)
        _store(codes, scale, x.m, x.m_scale)


def _store(codes: Tensor, scale: Tensor | None, into_codes: Tensor, into_scale: Tensor | None) -> None:
    into_codes.copy_(codes)
    if into_scale is not None and scale is not None:
        into_scale.copy_(scale)


def _power(p: Tensor) -> Tensor:
    """The power of two at or below |p|; of what is not finite, some number."""
    return (p.view(torch.int32) & INFINITY_BITS).clamp(SMALLEST_BITS, LARGE_BITS).view(torch.float32)


def _write_parameter(master: str, x: Operands, p: Tensor) -> None:
    if x.residual is None:
        x.p.copy_(bfloat16_values(p, _draws(x, 2)) if master == "sr" else p)
        return
    rounded = bfloat16_values(p, None)
    x.p.copy_(rounded)
    # NaN, of inf - inf, becomes the least integer; a parameter that is not finite has no residual.
    code = torch.floor((p - rounded) / _power(rounded) * (RESIDUAL_STEPS / HALF_ULP) + _draws(x, 2)).to(torch.int32)
    finite = (magnitude_bits(rounded) - INFINITY_BITS) >> 31
    x.residual.copy_((code.clamp(-int(RESIDUAL_STEPS), int(RESIDUAL_STEPS)) & finite).to(torch.int8))


# A rule in two parts: moments come first, so that a compiler writes them down before the parameter needs them again.
States = tuple[Tensor, Tensor]


def _adam_states(p: Tensor, g: Tensor, m: Tensor, v: Tensor, n: Numbers) -> States:
    return m + n.not_a * (g - m), n.b * v + n.not_b * g * g


def _adam_coupled_states(p: Tensor, g: Tensor, m: Tensor, v: Tensor, n: Numbers) -> States:
    return _adam_states(p, g + n.decay * p, m, v, n)


def _lion_states(p: Tensor, g: Tensor, m: Tensor, v: Tensor, n: Numbers) -> States:
    return n.b * m + n.not_b * g, v


def _sgd_states(p: Tensor, g: Tensor, m: Tensor, v: Tensor, n: Numbers) -> States:
    return n.a * m + n.not_b * (g + n.decay * p), v


def _rmsprop_states(p: Tensor, g: Tensor, m: Tensor, v: Tensor, n: Numbers) -> States:
    g = g + n.decay * p
    return m, n.b * v + n.not_b * g * g


def _rmsprop_momentum_states(p: Tensor, g: Tensor, m: Tensor, v: Tensor, n: Numbers) -> States:
    _, v = _rmsprop_states(p, g, m, v, n)
    return n.a * m + (g + n.decay * p) / (v.sqrt() + n.eps), v


def _adagrad_states(p: Tensor, g: Tensor, m: Tensor, v: Tensor, n: Numbers) -> States:
    g = g + n.decay * p
    return m, v + g * g


class Fresh(NamedTuple):
    """What a parameter's update may look at: g, the first moment before, and both moments after."""

    g: Tensor
    old_m: Tensor
    m: Tensor
    v: Tensor


def _adam_parameter(p: Tensor, x: Fresh, n: Numbers) -> Tensor:
    return p - n.size * (x.m / (x.v.sqrt() * n.root + n.eps))


def _adamw_parameter(p: Tensor, x: Fresh, n: Numbers) -> Tensor:
    return _adam_parameter(p * n.kept, x, n)


def _adamw_after_parameter(p: Tensor, x: Fresh, n: Numbers) -> Tensor:
    return _adam_parameter(p, x, n) * n.kept


def _lion_parameter(p: Tensor, x: Fresh, n: Numbers) -> Tensor:
    return p * n.kept - n.lr * torch.sign(n.a * x.old_m + n.not_a * x.g)


def _momentum_parameter(p: Tensor, x: Fresh, n: Numbers) -> Tensor:
    return p - n.lr * x.m


def _nesterov_parameter(p: Tensor, x: Fresh, n: Numbers) -> Tensor:
    return p - n.lr * (x.g + n.decay * p + n.a * x.m)


def _over_root_parameter(p: Tensor, x: Fresh, n: Numbers) -> Tensor:
    return p - n.lr * ((x.g + n.decay * p) / (x.v.sqrt() + n.eps))


StateUpdate = Callable[[Tensor, Tensor, Tensor, Tensor, Numbers], States]
ParameterUpdate = Callable[[Tensor, Fresh, Numbers], Tensor]

UPDATES: dict[str, tuple[StateUpdate, ParameterUpdate]] = {
    "adamw": (_adam_states, _adamw_parameter),
    "adamw_after": (_adam_states, _adamw_after_parameter),
    "adam": (_adam_coupled_states, _adam_parameter),
    "lion": (_lion_states, _lion_parameter),
    "sgd": (_sgd_states, _momentum_parameter),
    "sgd_nesterov": (_sgd_states, _nesterov_parameter),
    "rmsprop": (_rmsprop_states, _over_root_parameter),
    "rmsprop_momentum": (_rmsprop_momentum_states, _momentum_parameter),
    "adagrad": (_adagrad_states, _over_root_parameter),
}
