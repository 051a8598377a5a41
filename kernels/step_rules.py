"""The elementwise update rules of `optimizer_step`, and the row of numbers that a step of one tensor takes.

g is the gradient after maximize (its sign), `grad_scale` and `skip_nonfinite`; m and v are what the state reads back
as; all arithmetic is float32. lr … c2 are entries of the row.

| rule             | m, v | step                                                                                     |
|------------------|------|------------------------------------------------------------------------------------------|
| adamw            | m, v | p ← p - lr·wd·p, then m ← m + (1-a)(g-m), v ← b·v + (1-b)g²,                             |
|                  |      | p ← p - lr/c1 · m / (√v/√c2 + eps)                                                       |
| adamw_after      | m, v | the same, with the decay p ← p - lr·wd·p after the step (bitsandbytes' order)            |
| adam             | m, v | g ← g + wd·p, then as adamw without decay                                                |
| lion             | m    | p ← p - lr·wd·p;  p ← p - lr · sign(a·m + (1-a)g);  m ← b·m + (1-b)g                     |
| sgd              | m    | g ← g + wd·p;  m ← a·m + (1-b)g;  p ← p - lr·m                                           |
| sgd_nesterov     | m    | g ← g + wd·p;  m ← a·m + (1-b)g;  p ← p - lr·(g + a·m)                                   |
| rmsprop          | v    | g ← g + wd·p;  v ← b·v + (1-b)g²;  p ← p - lr · g / (√v + eps)                           |
| rmsprop_momentum | m, v | as rmsprop, with  m ← a·m + g / (√v + eps);  p ← p - lr·m                                |
| adagrad          | v    | g ← g + wd·p;  v ← v + g²;  p ← p - lr · g / (√v + eps)                                  |

Sources: AdamW, Loshchilov & Hutter, arXiv 1711.05101; Adam, Kingma & Ba, arXiv 1412.6980; Lion, Chen et al., arXiv
2302.06675; the others as in torch.optim. The caller puts torch's special cases into the row: SGD's first step has
b = 0, Adagrad's lr is lr / (1 + (t - 1) · lr_decay).
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """Which states a rule has; relative: whether m is of the size of √v, so that whitened codecs store m / √v."""

    first: bool
    second: bool
    relative: bool = False


RULES: dict[str, Rule] = {
    "adamw": Rule(True, True, True),
    "adamw_after": Rule(True, True, True),
    "adam": Rule(True, True, True),
    "lion": Rule(True, False),
    "sgd": Rule(True, False),
    "sgd_nesterov": Rule(True, False),
    "rmsprop": Rule(False, True),
    "rmsprop_momentum": Rule(True, True),
    "adagrad": Rule(False, True),
}


MASTERS = ("none", "sr", "residual")
"""How a parameter takes its update: rounded to its dtype to nearest; bfloat16, stochastically; or bfloat16 with an
int8 residual w - p in 127ths of half an ulp of p, itself rounded stochastically (24 bits of weight in 3 bytes):

    w = p + r / 127 · ulp(p) / 2    ulp(p) = 2^(max(exponent(p), -126) - 7)
    p' = bfloat16(w')    r' = floor(127 · clamp((w' - p') / (ulp(p') / 2), -1, 1) + u)
"""


class Row(NamedTuple):
    """What a step of one tensor is told: a row of the op's float64 `rows` [tensors, ROW_LENGTH].

    step: t, from 1. a, b: the rule's two averages (β₁ and β₂ for Adam). c1 = 1 - a^t, c2 = 1 - b^t. grad_scale: g is
    multiplied by it (clipping). first_key, second_key, weight_key: keys (kernels/random_words.py) of this step's
    roundings of m, v and p. read_first_key, read_second_key: of the step that wrote the state, for dither. offset:
    place of the tensor's first element in the whole parameter, a multiple of 2 (0 unless the parameter is sharded).
    """

    step: float
    lr: float
    weight_decay: float
    a: float
    b: float
    eps: float
    c1: float
    c2: float
    grad_scale: float = 1.0
    first_key: float = 0.0
    second_key: float = 0.0
    weight_key: float = 0.0
    read_first_key: float = 0.0
    read_second_key: float = 0.0
    offset: float = 0.0


ROW_LENGTH = len(Row._fields)
