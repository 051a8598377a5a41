"""Search tables of codebooks against the formats' own encode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge import formats
from narrowgauge.kernels.codebooks import bins, encode_codebook, threshold_array, thresholds

NAMES = ("dynamic8", "udynamic8", "nf4")


def hard_values(name: str) -> np.ndarray:
    """Every threshold and its neighbours, every entry, and values far out."""
    t = threshold_array(name)
    values = formats.get(name).values().astype(np.float32)
    outside = np.array([-3.4e38, -2, -1, -1e-45, -0.0, 0.0, 1e-45, 1e-30, 1, 2, 3.4e38], dtype=np.float32)
    spread = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    spread *= np.exp(3 * np.random.default_rng(1).standard_normal(20000)).astype(np.float32)
    return np.concatenate([t, np.nextafter(t, np.float32(-9)), np.nextafter(t, np.float32(9)), values, outside, spread])


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_those_of_the_format(name: str) -> None:
    x = hard_values(name)
    codes = encode_codebook(torch.from_numpy(x.copy()), name, torch.empty(x.size))
    np.testing.assert_array_equal(codes.numpy(), formats.get(name).encode(x))


@pytest.mark.parametrize("name", NAMES)
def test_code_is_the_number_of_thresholds_not_above_the_value(name: str) -> None:
    x = hard_values(name)
    counted = np.searchsorted(threshold_array(name), x, side="right")
    np.testing.assert_array_equal(counted, formats.get(name).encode(x))


def test_thresholds_are_padded_to_255_with_infinity() -> None:
    padded = thresholds("nf4", torch.device("cpu"))
    assert padded.shape == (255,)
    assert torch.isinf(padded[15:]).all()


def test_bins_are_as_coarse_as_one_threshold_each_allows() -> None:
    assert bins("udynamic8").upper.numel() == 1 << 16
    assert bins("nf4").upper.numel() < 1 << 14


def test_format_that_is_no_ascending_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match="ascending codebook"):
        threshold_array("e4m3fn")
