"""Where scale rules take the largest magnitude to: the end of the range for most formats, not for tapered ones."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import Format, quantize_reference
from narrowgauge.numerics import sqnr_db

TAPERED = {"posit8es0": 2.0, "posit8es1": 4.0, "posit8es2": 16.0, "posit16es1": 4.0, "takum8": 2.0, "hif8": 16.0}


def test_the_target_is_a_value_of_the_format(fmt: Format) -> None:
    assert 0 < fmt.amax_target <= fmt.max
    assert fmt.round(fmt.amax_target) == fmt.amax_target


def test_it_is_the_largest_value_unless_precision_fades() -> None:
    for name in formats.names():
        fmt = formats.get(name)
        if isinstance(fmt, Format) and fmt.family not in ("posit", "takum", "tapered float"):
            assert fmt.amax_target == fmt.max, name
    assert {name: formats.get(name).amax_target for name in TAPERED} == TAPERED


@pytest.mark.parametrize("name", TAPERED)
def test_no_other_power_of_two_holds_gaussian_data_much_better(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    own = sqnr_db(quantize_reference(x, f"{name}/row").dequantize(), x)
    others = []
    for target in np.exp2(np.arange(-3.0, 12.0)):
        factor = target / np.abs(x).max(axis=1, keepdims=True).astype(np.float64)
        others.append(sqnr_db(formats.get(name).round(x * factor) / factor, x))
    assert own > max(others) - 3.0  # dB
    # The largest value as the target costs more than ten.
    end = formats.get(name).max / np.abs(x).max(axis=1, keepdims=True).astype(np.float64)
    assert own > 10 + sqnr_db(formats.get(name).round(x * end) / end, x)


def test_scales_are_amax_over_the_target() -> None:
    x = np.array([[1.0, -3.0], [0.5, 0.25]], np.float32)
    assert quantize_reference(x, "posit8es1/row").scale.ravel().tolist() == [0.75, 0.125]
    assert quantize_reference(x, "posit8es1/row:floor").scale.ravel().tolist() == [0.5, 0.125]
