"""optimizer_step in numpy and float64: the rules of `kernels/step_rules.py` on states as they read back.

What an implementation holds in float32 between the operations (the new m, v and p) is rounded to float32 here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.kernels._masters_reference import join_weight, round_weight, split_weight
from narrowgauge.kernels._moments_reference import (
    Array,
    Stored,
    decode_pair,
    decode_reference,
    encode_pair,
    encode_reference,
)
from narrowgauge.kernels._step_checks import Codecs, rule_codecs
from narrowgauge.kernels.moments import MomentCodec
from narrowgauge.kernels.step_rules import Row


class Call(NamedTuple):
    """The op's arguments."""

    rule: str
    p: Sequence[Tensor]
    g: Sequence[Tensor]
    m: Sequence[Tensor]
    m_scale: Sequence[Tensor]
    v: Sequence[Tensor]
    v_scale: Sequence[Tensor]
    residual: Sequence[Tensor]
    m_codec: str
    v_codec: str
    master: str
    rows: Tensor
    maximize: bool
    skip_nonfinite: bool

    @property
    def codecs(self) -> Codecs:
        return rule_codecs(self.rule, self.m_codec, self.v_codec)

    def row(self, index: int) -> Row:
        return Row(*self.rows[index].tolist())


class Wide(NamedTuple):
    """One tensor's weights and moments, flat float64; None for moments that the rule does not have."""

    p: Array
    m: Array | None
    v: Array | None


class Written(NamedTuple):
    """One tensor's outputs: p as float64 values of its dtype, residual None but for that master."""

    p: Array
    residual: NDArray[np.int8] | None
    m: Stored | None
    v: Stored | None


def numpy_of(t: Tensor) -> NDArray[np.generic]:
    """Flat; bfloat16 as float32."""
    flat = t.detach().cpu().reshape(-1)
    return np.asarray((flat.float() if flat.dtype is torch.bfloat16 else flat).numpy())


def _wide(t: Tensor) -> Array:
    return numpy_of(t).astype(np.float64)


def narrowed(x: Array) -> Array:
    """x as float32 holds it."""
    with np.errstate(over="ignore"):
        return np.asarray(x.astype(np.float32).astype(np.float64))


def stored(codec: MomentCodec | None, codes: Sequence[Tensor], scales: Sequence[Tensor], index: int) -> Stored | None:
    """The moment of a tensor, of the op's lists; None where there is no codec."""
    if codec is None:
        return None
    if not codec.columns:
        return Stored(numpy_of(codes[index]), np.zeros((0, 0)))
    scale = scales[index]
    return Stored(numpy_of(codes[index]), numpy_of(scale).reshape(tuple(scale.shape)))


def read_moments(
    codecs: Codecs, m: Stored | None, v: Stored | None, count: int,
    keys: tuple[int, int], offset: int,
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """(m, v) as they read back, of the keys of the step that wrote them."""
    first, second = codecs
    if first is not None and second is not None and m is not None and v is not None:
        return decode_pair(m, v, first, second, count, keys, offset)
    return (
        None if first is None or m is None else decode_reference(*m, first, (count,), keys[0], offset),
        None if second is None or v is None else decode_reference(*v, second, (count,), keys[1], offset),
    )


def read(call: Call, index: int) -> Wide:
    """What a tensor and its states are before the step."""
    row = call.row(index)
    p = _wide(call.p[index])
    if call.master == "residual":
        p = join_weight(p, numpy_of(call.residual[index]).astype(np.int8))
    first, second = call.codecs
    keys = int(row.read_first_key), int(row.read_second_key)
    states = stored(first, call.m, call.m_scale, index), stored(second, call.v, call.v_scale, index)
    return Wide(p, *read_moments(call.codecs, *states, p.size, keys, int(row.offset)))


def gradient(call: Call, index: int) -> Array:
    """g after `maximize`, `grad_scale` and `skip_nonfinite`."""
    g = narrowed(_wide(call.g[index]) * call.row(index).grad_scale * (-1.0 if call.maximize else 1.0))
    return np.where(np.isfinite(g), g, 0.0) if call.skip_nonfinite else g


def step(rule: str, old: Wide, g: Array, row: Row) -> Wide:
    """The weights and moments after one step, before they are stored."""
    p, lr, decay = old.p, row.lr, row.lr * row.weight_decay
    m = np.zeros_like(p) if old.m is None else old.m
    v = np.zeros_like(p) if old.v is None else old.v
    with np.errstate(all="ignore"):  # NaN and infinite gradients go through as they come
        if rule in ("adamw", "lion"):
            p = p - decay * p
        elif rule != "adamw_after":
            g = g + row.weight_decay * p
        if rule in ("adamw", "adamw_after", "adam"):
            m = m + (1 - row.a) * (g - m)
            v = narrowed(row.b * v + (1 - row.b) * g * g)
            p = p - lr / row.c1 * m / (np.sqrt(v) / np.sqrt(row.c2) + row.eps)
        elif rule == "lion":
            p = p - lr * np.sign(row.a * m + (1 - row.a) * g)
            m = row.b * m + (1 - row.b) * g
        elif rule in ("sgd", "sgd_nesterov"):
            m = row.a * m + (1 - row.b) * g
            p = p - lr * (m if rule == "sgd" else g + row.a * m)
        else:
            v = narrowed(v + g * g if rule == "adagrad" else row.b * v + (1 - row.b) * g * g)
            change = g / (np.sqrt(v) + row.eps)
            m = row.a * m + change
            p = p - lr * (m if rule == "rmsprop_momentum" else change)
        if rule == "adamw_after":
            p = p - decay * p
    return Wide(narrowed(p), None if old.m is None else narrowed(m), None if old.v is None else v)


def write_moments(
    codecs: Codecs, m: Array | None, v: Array | None, keys: tuple[int, int], offset: int
) -> tuple[Stored | None, Stored | None]:
    """(m, v) as they are stored."""
    first, second = codecs
    if first is not None and second is not None and m is not None and v is not None:
        return encode_pair(m, v, first, second, keys, offset)
    return (
        None if first is None or m is None else encode_reference(m, first, keys[0], offset),
        None if second is None or v is None else encode_reference(v, second, keys[1], offset),
    )


def write(call: Call, index: int, new: Wide) -> Written:
    """How the results of a step are stored."""
    row = call.row(index)
    offset = int(row.offset)
    m, v = write_moments(call.codecs, new.m, new.v, (int(row.first_key), int(row.second_key)), offset)
    if call.master == "residual":
        return Written(*split_weight(new.p, int(row.weight_key), offset), m, v)
    if call.master == "sr":
        return Written(round_weight(new.p, int(row.weight_key), offset), None, m, v)
    rounded = torch.from_numpy(new.p).float().to(call.p[index].dtype).double().numpy()
    return Written(rounded, None, m, v)


def reference(*args: object) -> list[list[Tensor]]:
    """p, m, m_scale, v, v_scale and residual after the step, as the op writes them."""
    call = Call(*args)  # type: ignore[arg-type]
    out: list[list[Tensor]] = [[] for _ in range(6)]
    for index, p in enumerate(call.p):
        new = step(call.rule, read(call, index), gradient(call, index), call.row(index))
        written = write(call, index, new)
        out[0].append(torch.from_numpy(written.p).to(p.dtype).view(p.shape))
        for place, moment, codes, scales in (
            (1, written.m, call.m, call.m_scale),
            (3, written.v, call.v, call.v_scale),
        ):
            if moment is not None:
                out[place].append(_like(moment.codes, codes[index]))
                if scales:
                    out[place + 1].append(_like(moment.scale, scales[index]))
        if written.residual is not None:
            out[5].append(_like(written.residual, call.residual[index]))
    return out


def _like(values: NDArray[np.generic], t: Tensor) -> Tensor:
    return torch.from_numpy(values).to(t.dtype).view(t.shape)
