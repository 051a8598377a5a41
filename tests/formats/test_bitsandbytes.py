"""bitsandbytes' FP4 and the 4-bit maps of optimizers: shipped constants, and nearest encoding by exact search."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import CodebookFormat
from narrowgauge.formats.dynamic_tree import dynamic_tree

# bitsandbytes, csrc/kernels.cu, dDequantizeFP4Tree: the float32 constants of codes 0b0000 to 0b0111.
BNB_FP4_BITS = [0x00000000, 0x3BAAAAAB, 0x3F2AAAAB, 0x3F800000, 0x3EAAAAAB, 0x3F000000, 0x3E2AAAAB, 0x3E800000]
# lpmm create_dynamic_map(True, 3, 4) and (False, 3, 3), printed to four digits and more by its authors.
DE4 = [-0.8875, -0.6625, -0.4375, -0.2125, -0.0775, -0.0325, -0.0055, 0.0,
       0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875, 1.0]  # fmt: skip
UDE4 = [0.0, 0.00325, 0.00775, 0.02125, 0.04375, 0.06625, 0.08875, 0.15625,
        0.26875, 0.38125, 0.49375, 0.60625, 0.71875, 0.83125, 0.94375, 1.0]  # fmt: skip
NAMES = ["bnb_fp4", "de4", "udynamic4", "power1_4bit"]


def test_bnb_fp4_has_the_shipped_constants() -> None:
    values = formats.get("bnb_fp4").values().astype(np.float32)
    assert values[:8].view(np.uint32).tolist() == BNB_FP4_BITS
    assert values[8:].view(np.uint32).tolist() == [bits | 0x80000000 for bits in BNB_FP4_BITS]


def test_bnb_fp4_is_sixteenths_and_small_integers_over_twelve() -> None:
    twelfths = [Fraction(n) for n in ("0", "1/16", "8", "12", "4", "6", "2", "3")]
    for value, twelfth in zip(formats.get("bnb_fp4").values().tolist(), twelfths, strict=False):
        assert value == float(np.float32(float(twelfth / 12)))


def test_bnb_fp4_differs_from_the_shipped_encoder_at_its_decimal_thresholds_alone() -> None:
    # (threshold, code above, code at or below) of dQuantizeFP4, in ascending order of magnitude.
    thresholds = np.float32([0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333])
    codes = np.uint8([0, 1, 6, 7, 4, 5, 2, 3])
    grid = np.linspace(0, 1, 100_001).astype(np.float32)
    shipped = codes[np.searchsorted(thresholds, grid, side="left")]
    ours = formats.get("bnb_fp4").encode(grid)
    distance = np.abs(grid[:, None] - thresholds).min(axis=1)
    assert np.array_equal(ours[distance > 4e-7], shipped[distance > 4e-7])


@pytest.mark.parametrize(("name", "published"), [("de4", DE4), ("udynamic4", UDE4)])
def test_dynamic_exponent_maps_are_the_published_values(name: str, published: list[float]) -> None:
    values = formats.get(name).values()
    assert values.tolist() == [float(np.float32(value)) for value in published]


def test_other_names_of_the_maps() -> None:
    assert formats.get("dynamic4") is formats.get("de4")
    assert formats.get("ude4") is formats.get("udynamic4")


@pytest.mark.parametrize("bits", range(3, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_every_width_of_the_rule_fills_its_codes(bits: int, signed: bool) -> None:
    table = dynamic_tree(bits, is_signed=signed)
    assert len(set(table)) == 2**bits
    assert list(table) == sorted(table)
    assert table[-1] == 1.0
    assert 0.0 in table


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^bits: got 9, accepted: 3 to 8"):
        dynamic_tree(9, is_signed=True)
    with pytest.raises(ValueError, match=r"^bits: got 1, accepted: 2 to 8"):
        dynamic_tree(1, is_signed=False)


def test_power_1_is_linear_and_has_no_zero() -> None:
    fmt = formats.get("power1_4bit")
    assert fmt.values().tolist() == [i / 16 for i in range(1, 17)]
    assert not fmt.has_zero
    assert fmt.round([0.0, 1e-9, 0.0624, 0.09375, -3.0]).tolist() == [0.0625, 0.0625, 0.0625, 0.0625, 0.0625]


@pytest.mark.parametrize("name", NAMES)
def test_encode_takes_the_nearest_value(name: str, rng: np.random.Generator) -> None:
    fmt: CodebookFormat = formats.get(name)
    levels = np.unique(fmt.values())
    exact = [Fraction(level) for level in levels.tolist()]
    middle = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    probes = [
        levels.astype(np.float32),
        middle,
        rng.standard_normal(300),
        rng.uniform(-1.5, 1.5, 200).astype(np.float32),
    ]
    probes += [np.nextafter(middle, np.float32(side)) for side in (-9, 9)]
    probes += [np.nextafter(levels.astype(np.float32), np.float32(side)) for side in (-9, 9)]
    x = np.concatenate([probe.astype(np.float64) for probe in probes])
    for value, q in zip(x.tolist(), fmt.round(x).tolist(), strict=True):
        distance = abs(Fraction(value) - Fraction(q))
        assert distance == min(abs(Fraction(value) - level) for level in exact), value
