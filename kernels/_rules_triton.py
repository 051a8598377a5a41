"""The update rules of kernels/step_rules.py and the masters of kernels/step_rules.MASTERS as Triton device functions.

`row` points at the float64 numbers of one step (`step_rules.Row`); float64 arithmetic is left to what float32 would
lose.
"""

from __future__ import annotations

from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import constant, jit, tl
from narrowgauge.kernels.step_rules import Row

LR, DECAY, A, B, EPS, C1, C2 = (constant(Row._fields.index(name)) for name in Row._fields[1:8])


@jit
def number(row, FIELD: tl.constexpr):
    """A number of the row, float32."""
    return tl.load(row + FIELD).to(tl.float32)


@jit
def key(row, FIELD: tl.constexpr):
    """A key of the row, uint32."""
    return tl.load(row + FIELD).to(tl.int64).to(tl.uint32)


@jit
def settings(row):
    """What `update` takes of the row, float32: (lr, 1 - lr·wd, wd, a, 1 - a, b, 1 - b, eps, lr / c1, 1 / √c2)."""
    lr, decay, a, b = tl.load(row + LR), tl.load(row + DECAY), tl.load(row + A), tl.load(row + B)
    size = tl.div_rn(lr.to(tl.float32), number(row, C1))
    unit = tl.div_rn(1.0, tl.sqrt_rn(number(row, C2)))
    return (
        lr.to(tl.float32), (1.0 - lr * decay).to(tl.float32), decay.to(tl.float32), a.to(tl.float32),
        (1.0 - a).to(tl.float32), b.to(tl.float32), (1.0 - b).to(tl.float32), number(row, EPS), size, unit,
    )  # fmt: skip


@jit
def update(p, g, m, v, row_settings, RULE: tl.constexpr):
    """(p, m, v) after the step; a state that the rule does not have comes back as it is."""
    lr, kept, decay, a, rest_a, b, rest_b, eps, size, unit = row_settings
    if RULE == "adamw" or RULE == "lion":
        p = p * kept
    elif RULE != "adamw_after":
        g = g + decay * p
    if RULE == "adamw" or RULE == "adamw_after" or RULE == "adam":
        m = m + rest_a * (g - m)
        v = b * v + rest_b * g * g
        p = p - size * tl.div_rn(m, tl.sqrt_rn(v) * unit + eps)
    elif RULE == "lion":
        mixed = a * m + rest_a * g
        # NaN compares as false, and has to reach p.
        p = p - lr * tl.where(mixed > 0.0, 1.0, tl.where(mixed < 0.0, -1.0, mixed))
        m = b * m + rest_b * g
    elif RULE == "sgd" or RULE == "sgd_nesterov":
        m = a * m + rest_b * g
        p = p - lr * (m if RULE == "sgd" else g + a * m)
    else:
        tl.static_assert(RULE == "adagrad" or RULE == "rmsprop" or RULE == "rmsprop_momentum")
        v = v + g * g if RULE == "adagrad" else b * v + rest_b * g * g
        change = tl.div_rn(g, tl.sqrt_rn(v) + eps)
        if RULE == "rmsprop_momentum":
            m = a * m + change
            change = m
        p = p - lr * change
    if RULE == "adamw_after":
        p = p * kept
    return p, m, v


@jit
def _exponent_field(p):
    """Biased exponent of bfloat16 numbers, at least that of 2^-126; of a number that is not finite, 1."""
    field = (_cast.bits_of(p) >> 23) & 0xFF
    return tl.where(field == 0xFF, 1, tl.maximum(field, 1))


@jit
def join_weight(p, residual):
    """w of a bfloat16 parameter (as float32) and its residual: half an ulp is 2^-8 of p's power of two."""
    return p + residual.to(tl.float32) * (1.0 / 127.0 / 256.0) * _cast.float_of(_exponent_field(p) << 23)


@jit
def split_weight(w, u):
    """(p, residual) of w."""
    p = _cast.round_to_bfloat16(w)
    # 127 halves of an ulp, as 2^(1 - exponent), which float32 always has, and 2^7.
    share = (w - p) * _cast.float_of((255 - _exponent_field(p)) << 23) * 128.0
    share = tl.where(_cast.is_finite(p), tl.minimum(tl.maximum(share, -1.0), 1.0), 0.0)
    return p, tl.where(_cast.is_finite(p), tl.floor(127.0 * share + u), 0.0)
