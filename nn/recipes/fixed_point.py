"""Recipes in fixed point: one binary point per tensor, static or moved by what earlier steps have shown."""

from __future__ import annotations

from narrowgauge.formats import CodebookFormat, ScaleRule, Scheme
from narrowgauge.nn.recipe import recipe

DOREFA_BITS = 8
_STEPS = 2**DOREFA_BITS - 1
DOREFA = CodebookFormat.from_values([(2 * i - _STEPS) / _STEPS for i in range(_STEPS + 1)], f"dorefa{DOREFA_BITS}")
"""2q - 1 for q = i / (2^k - 1): 2^k levels over [-1, 1], none of them zero."""

RECIPES = (
    recipe(
        "gupta16",
        "arXiv 1502.02551: 16-bit fixed point, stochastic rounding, sums exact. X <5.10>, W <1.14>; dY has 24 fraction "
        "bits, which is <1.14> under a loss scale of 2^10. The paper leaves the binary points to the user",
        x="q5.10:static=1.0+sr", w="q1.14:static=1.0+sr", g="int16f24:static=1.0+sr", update="q1.14:static=1.0+sr",
        advice="GridWeights keeps the weights on their 16-bit grid, rounding each step stochastically",
    ),
    recipe(
        "courbariaux10",
        "arXiv 1412.7024: dynamic fixed point of 10 bits, the range doubled or halved where more or less than 0.01 % "
        "overflows; parameters of 12 bits",
        every="int10:overflow=0.0001", update="int12:pow2",
        advice="GridWeights keeps the weights in 12 bits; the paper widens all ranges every 10 000 samples",
    ),
    recipe(
        "dfp16",
        "arXiv 1802.00930: int16 with one exponent per tensor, int32 sums spilled to float32; float32 master weights",
        every="dfp16",
    ),
    recipe(
        "flexpoint16",
        "arXiv 1711.02213: flex16+5, int16 with one exponent per tensor, predicted by Autoflex from earlier maxima",
        every="int16:autoflex",
    ),
    recipe(
        "dorefa",
        "arXiv 1606.06160 with 8 bits throughout: W by tanh and 2^k levels without zero, X clipped to [-1, 1] (the "
        "paper: [0, 1] after its bounded activation), dY per token on int8's levels, stochastic (the paper: per "
        "sample, 2^k levels without zero)",
        weight_map="tanh", w=Scheme(DOREFA, rule=ScaleRule.STATIC, value=1.0),
        input_map="clip1", x="int8:static=0.007874015748031496",
        g="int8/row+sr",
        caveat="inputs of a transformer's layers are cut at ±1, weights are spread over [-1, 1]: the method was "
        "made for networks with bounded activations and batch normalisation",
    ),
    recipe(
        "wage2888",
        "arXiv 1802.04680, 2-8-8-8: W of 2 bits, X, dY and the weights' own grid of 8. Scales are powers of two of "
        "each tensor (the paper: one constant per layer, set at its own initialisation); dY to nearest, updates "
        "stochastic",
        w="int2:mse", x="int8:pow2", g="int8:pow2", update="int8:pow2+sr",
        caveat="weights with three values",
    ),
)  # fmt: skip
