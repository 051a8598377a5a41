"""Recipes: how the three GEMMs of a linear layer are quantised, as data.

A linear layer Y = X·Wᵀ (X [T, K], W [N, K]) has three GEMMs and six operand slots; every operand is written with the
reduction axis last, so "row" and "1xG" mean along the reduction:

| GEMM  | product     | reduced | slots                          |
|-------|-------------|---------|--------------------------------|
| fprop | Y = X·Wᵀ    | K       | x_fprop [T, K], w_fprop [N, K] |
| dgrad | dX = dY·W   | N       | g_dgrad [T, N], w_dgrad [K, N] |
| wgrad | dW = dYᵀ·X  | T       | g_wgrad [N, T], x_wgrad [K, T] |

A slot is a `Scheme`, of any format of at most 8 bits, or None for high precision. A GEMM with one quantised operand
runs in high precision on its dequantised values.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from narrowgauge.formats import Scheme, parse

SLOTS = ("x_fprop", "w_fprop", "g_dgrad", "w_dgrad", "g_wgrad", "x_wgrad")
GEMMS = {"fprop": ("x_fprop", "w_fprop"), "dgrad": ("g_dgrad", "w_dgrad"), "wgrad": ("g_wgrad", "x_wgrad")}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Six operand slots under a name. `source` says where the recipe was published and what was chosen here."""

    name: str
    x_fprop: Scheme | None = None
    w_fprop: Scheme | None = None
    g_dgrad: Scheme | None = None
    w_dgrad: Scheme | None = None
    g_wgrad: Scheme | None = None
    x_wgrad: Scheme | None = None
    source: str = ""

    @property
    def slots(self) -> dict[str, Scheme | None]:
        """The six schemes by slot name."""
        return {slot: getattr(self, slot) for slot in SLOTS}

    @property
    def texts(self) -> tuple[str | None, ...]:
        """The six schemes as text, in the order of `SLOTS`: what the operators take."""
        return tuple(None if scheme is None else str(scheme) for scheme in self.slots.values())

    @property
    def quantized(self) -> bool:
        """Whether any slot is quantised."""
        return any(scheme is not None for scheme in self.slots.values())

    @property
    def stochastic(self) -> bool:
        """Whether any slot rounds stochastically."""
        return any(scheme is not None and scheme.stochastic for scheme in self.slots.values())


def recipe(name: str, source: str = "", **slots: str | Scheme | None) -> Recipe:
    """A `Recipe` from scheme texts or Schemes: `recipe("mine", x_fprop="e4m3fn/row", w_fprop=Scheme(fmt, (1, None)))`.

    ValueError for unknown slot names and for schemes that do not parse.
    """
    for slot in slots:
        if slot not in SLOTS:
            near = get_close_matches(slot, SLOTS, n=1)
            raise ValueError(f"slot: unknown {slot!r}{f'; did you mean {near[0]!r}?' if near else ''}; {SLOTS}")
    parsed = {slot: None if scheme is None else parse(scheme) for slot, scheme in slots.items()}
    return Recipe(name=name, source=source, **parsed)


def _every(name: str, scheme: str, source: str) -> Recipe:
    return recipe(name, source, **dict.fromkeys(SLOTS, scheme))


RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        recipe(
            "fp8_tensor",
            "arXiv 2209.05433 (HYBRID) with current scaling: one scale per tensor, gradients E5M2",
            x_fprop="e4m3fn", w_fprop="e4m3fn", g_dgrad="e5m2", w_dgrad="e4m3fn", g_wgrad="e5m2", x_wgrad="e4m3fn",
        ),
        _every("fp8_row", "e4m3fn/row", "row-wise E4M3 along each reduction axis; float32 scales, not rounded to 2^k"),
        recipe(
            "fp8_deepseek",
            "arXiv 2412.19437: activations and gradients 1x128, weights 128x128, all E4M3, float32 scales",
            x_fprop="e4m3fn/1x128", w_fprop="e4m3fn/128x128", g_dgrad="e4m3fn/1x128", w_dgrad="e4m3fn/128x128",
            g_wgrad="e4m3fn/1x128", x_wgrad="e4m3fn/1x128",
        ),
        _every("mxfp8", "mxfp8_e4m3", "OCP MX v1.0 elements, scales rounded up (never clip)"),
        recipe(
            "int8_switchback",
            "arXiv 2304.13013: int8 rows of X and dY, one scale for W; the weight gradient stays in high precision",
            x_fprop="int8/row", w_fprop="int8", g_dgrad="int8/row", w_dgrad="int8",
        ),
        _every("rf8", "rf8/row", "RF8 (arXiv 2506.00486) in all six slots; the paper: weights, after training"),
        Recipe(name="fp32", source="identity: every GEMM in the precision of its inputs"),
    )
}  # fmt: skip


def get_recipe(name: str | Recipe) -> Recipe:
    """The recipe called `name` (a Recipe is returned as it is). ValueError names the nearest known ones."""
    if isinstance(name, Recipe):
        return name
    if not isinstance(name, str):
        raise TypeError(f"recipe: expected a name or a Recipe, got {type(name).__name__}")
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=2, cutoff=0.3)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        raise ValueError(f"recipe: unknown name {name!r}; {hint}known: {', '.join(RECIPES)}")
    return RECIPES[name]
