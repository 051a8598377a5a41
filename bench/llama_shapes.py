"""Shapes of the parameters of a Llama with a given number of them."""

from __future__ import annotations

import math

BLOCKS = 8
BLOCK_SHARE = 0.8
"""Of all parameters; the others are the embedding's."""
WIDTH_STEP = 16
LEAST = 50_000


def llama_shapes(parameters: int) -> list[tuple[int, ...]]:
    """Eight blocks (attention with a quarter of the heads for keys and values, an MLP of 2 3/4 of the width, two
    norms), a norm, and an embedding that takes up what is left, to a row. ValueError below 50 000 parameters."""
    if parameters < LEAST:
        raise ValueError(f"parameters: expected at least {LEAST}, got {parameters}")
    per_block = 2 + 2 / 4 + 3 * 2.75
    width = int(math.sqrt(BLOCK_SHARE * parameters / (BLOCKS * per_block))) // WIDTH_STEP * WIDTH_STEP
    hidden = 11 * width // 4
    block: list[tuple[int, ...]] = [
        (width, width), (width // 4, width), (width // 4, width), (width, width),
        (hidden, width), (hidden, width), (width, hidden), (width,), (width,),
    ]  # fmt: skip
    shapes = BLOCKS * block + [(width,)]
    rows = (parameters - sum(math.prod(shape) for shape in shapes)) // width
    return [*shapes, (rows, width)]
