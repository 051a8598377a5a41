"""Inputs of layers: what is refused, and the rows that products take."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.nn.layer_input import as_rows, check_features


def test_rows_are_all_axes_but_the_last() -> None:
    x = torch.randn(2, 3, 4)
    assert torch.equal(as_rows(x, 4), x.view(6, 4))
    assert as_rows(torch.zeros(0, 4), 4).shape == (0, 4)
    assert as_rows(torch.zeros(4), 4).shape == (1, 4)
    assert as_rows(torch.zeros(3, 0), 0).shape == (3, 0)


def test_autocast_gives_its_dtype() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert as_rows(torch.zeros(2, 4), 4).dtype == torch.bfloat16


def test_others_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input: expected last axis 5, got shape \(2, 4\)"):
        check_features(torch.zeros(2, 4), 5)
    with pytest.raises(TypeError, match=r"input: expected a floating dtype, got torch.int64"):
        as_rows(torch.zeros(2, 4, dtype=torch.int64), 4)
