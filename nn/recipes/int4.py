"""INT4 in every product (Xi et al., arXiv 2306.11987)."""

from __future__ import annotations

from narrowgauge.nn.recipe import recipe

GRADIENT = "int8:static=1.0+sr+planes"

RECIPES = (
    recipe(
        "int4",
        "arXiv 2306.11987: X and W rotated (Hadamard blocks of 32) and in INT4 with learned steps (LSQ); dY in 8 bits, "
        "stochastic, as two INT4 planes, of whose rows leverage scores keep one half in dX and dW. X and W of the "
        "backward products are the forward ones. For dX scores are |dY_t|",
        g=GRADIENT, input_map="lsq4h32", weight_map="lsq4h32", sample=0.5,
        advice="begin from a trained model, as the paper's fine-tuning does, or with a low learning rate",
    ),
)  # fmt: skip
