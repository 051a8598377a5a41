"""docs/recipes.md, whole: what a recipe is, how to write one, and all of them."""

from __future__ import annotations

from narrowgauge.commands.recipes import row

HEAD = """\
# Recipes

Printed by `narrowgauge recipes --markdown > docs/recipes.md`; a test compares this page with the registry.

A linear layer has three matrix products and six operands; a recipe gives each operand a scheme
(`narrowgauge/nn/recipe.py`). Operands are written with the reduction axis last, so `row` and `1x128` run along it.

| GEMM  | product     | reduced | slots                              |
|-------|-------------|---------|------------------------------------|
| fprop | Y = X·Wᵀ    | K       | `x_fprop` [T, K], `w_fprop` [N, K] |
| dgrad | dX = dY·W   | N       | `g_dgrad` [T, N], `w_dgrad` [K, N] |
| wgrad | dW = dYᵀ·X  | T       | `g_wgrad` [N, T], `x_wgrad` [K, T] |

Slots that are not named stay in high precision. Two coded operands (at most 8 bits) run in the scaled GEMM; formats of
9 to 16 bits, and operands to which something is added, run in high precision on their dequantised values; so does a
product with an empty slot. `ng.explain(model)` says which is which, layer by layer.

What is saved for backward: the wgrad copy of X as codes with their scales (one byte per value; X itself where
`x_wgrad` is empty or has no codes). Weights are quantised from the parameter, which stays in high
precision, forward and backward.

## Your own

```python
import narrowgauge as ng

mine = ng.nn.recipe("mine", x="e4m3fn/1x128", w="e4m3fn/row", g_dgrad="e5m2/row+sr", g_wgrad="e5m2/row+sr")
model = ng.convert(model, mine)
print(ng.explain(model))
```

or in a file, `ng.convert(model, "mine.toml")`:

```toml
source = "rotated FP4 backward, FP8 forward"
x_fprop = "e4m3fn/row"
w_fprop = "e4m3fn/row"
g = "mxfp4:rceil+sr+rht64fresh+gain0.75"
w_dgrad = "mxfp4:rceil+sr+rht64fresh+gain0.75"
x_wgrad = "mxfp4:rceil+sr+rht64fresh+gain0.75"
```

`every=` fills all six slots, `x=`, `w=`, `g=` those of one tensor; a slot that is named as well wins.
`narrowgauge recipes NAME --toml` prints any recipe in this form.

### What a slot may say

    format[/granularity][:rule][+option]*

| part | texts |
|---|---|
| granularity | `tensor` (default), `row`, `col`, `1x128`, `128x128`, …; block formats bring their own |
| rule | `amax` (default), `floor`, `ceil`, `rceil`, `even`, `pow2`, `static=S`, `percentile=P`, `mse`, `sawb` |
| rule with a memory, per tensor | `delayed=N` (amax of N steps), `hindsight=η`, `autoflex`, `overflow=R` |
| rounding | `+sr` stochastic, from the layer's `seed` and a counter in the `state_dict`; `+ftz` |
| rotation, both operands of a product alike | `+hN`; `+rhtN` with fixed signs; `+rhtNfresh` with new ones each time |
| around the quantisation | {stages} |

### What else a recipe may say

| field | meaning |
|---|---|
| `out_fprop`, `out_dgrad`, `out_wgrad` | schemes of the three results |
| `accumulate` | an emulated accumulator, such as `dlfloat16/64` or `hopper/128` (`narrowgauge/nn/accumulate.py`) |
| `requantize` | backward operands are made from the quantised forward ones |
| `weight_map`, `input_map` | what is done to W and X before, with a gradient of its own: {maps} |
| `update` | the grid that the weights themselves live on; `ng.nn.GridWeights` keeps them there |
| `keep` | blocks at the model's begin and end that stay in high precision |

## All of them

X, W and dY as they enter the two products of each, `fprop | wgrad`, `fprop | dgrad`, `dgrad | wgrad`; one text where
both are alike. What each costs in training stands in `bench/results/recipes.json` (`narrowgauge bench recipes`).

| recipe | X | W | dY | beside | source |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The page."""
    from narrowgauge.formats.stages import STAGES
    from narrowgauge.nn import RECIPES
    from narrowgauge.nn.maps import MAPS

    stages = ", ".join(f"`+{stage.EXAMPLE}`" for stage in STAGES if not stage.EXAMPLE.startswith("rht"))
    head = HEAD.replace("{stages}", stages).replace("{maps}", ", ".join(f"`{kind.EXAMPLE}`" for kind in MAPS))
    lines = []
    for recipe in RECIPES.values():
        name, *cells = row(recipe)
        schemes = [cell if cell == "-" else f"`{cell}`" for cell in cells[:3]]
        notes = [text for text in (cells[4], recipe.advice, recipe.caveat and f"Caveat: {recipe.caveat}") if text]
        line = [f"`{name}`", *schemes, cells[3], ". ".join(notes)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |")
    return head + "\n".join(lines) + "\n"
