"""Values of operands with stages, in torch and by their definition."""

from __future__ import annotations

import numpy as np
import torch

from narrowgauge.formats.operand import operand_reference
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.operand import dequantized, make_operand


def rows_of_many_sizes(seed: int, rows: int, cols: int) -> np.ndarray:
    """Normal values, rows scaled by exp of normal ones; float32."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, cols)) * np.exp(2 * rng.standard_normal((rows, 1)))).astype(np.float32)


def assert_values_of_the_definition(text: str, x: np.ndarray, draw: Draw) -> None:
    """Codes and scales are equal; the last float32 product and sum may round."""
    expected = operand_reference(x, text, draw)
    actual = dequantized(make_operand(torch.from_numpy(x), text, draw), torch.float64).numpy()
    largest = float(np.nan_to_num(np.abs(expected)).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=3e-7, atol=1e-6 * largest)
