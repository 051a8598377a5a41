"""What every prologue has to fulfil: its definition is near the mathematical function, and torch has its bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels.prologues import PROLOGUES, Prologue, get_prologue

NAMES = sorted(PROLOGUES)
ROWS, COLUMNS = 24, 256
# |definition - exact|, in relation to the largest magnitude of x (times that of other): roundings of a few operations,
# those of erf (4e-7 / 2) and exp, and for norms the truncated squares, K · 2^-29 = 5e-7.
TOLERANCE = 1e-6


def operands(prologue: Prologue, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((ROWS, COLUMNS)) * np.exp(rng.standard_normal((ROWS, 1)))).astype(np.float32)
    other = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) if prologue.gated else None
    gain = rng.standard_normal(COLUMNS).astype(np.float32)
    weight = {"gain": gain, "signs": np.sign(gain), "": None}[prologue.weighted]
    return x, other, weight


@pytest.mark.parametrize("name", NAMES)
def test_definition_is_near_the_exact_function(name: str) -> None:
    prologue = get_prologue(name)
    x, other, weight = operands(prologue)
    got = prologue.define(x, other, weight, 1e-5)
    wide = [None if part is None else part.astype(np.float64) for part in (x, other, weight)]
    want = prologue.exact(*wide, 1e-5)  # type: ignore[arg-type]
    assert got.dtype == np.float32
    assert got.shape == (ROWS, prologue.width(COLUMNS))
    size = np.abs(want).max(axis=1, keepdims=True) + np.abs(x).max(axis=1, keepdims=True)
    size = size * (1 if other is None else np.abs(other).max())
    assert (np.abs(got - want) <= TOLERANCE * size).all()


@pytest.mark.parametrize("name", NAMES)
def test_torch_in_place_has_the_bits_of_the_definition(name: str) -> None:
    prologue = get_prologue(name)
    x, other, weight = operands(prologue, 1)
    x[0, 0], x[1, 1], x[2], x[3], x[4] = np.nan, np.inf, 0.0, 1e-40, 1e30
    with np.errstate(all="ignore"):
        want = prologue.define(x.copy(), other, weight, 1e-5)
    got, scratch = torch.from_numpy(x.copy()), torch.full((3, x.size), torch.nan)
    if prologue.activation is not None:
        prologue.activation(got.view(-1), scratch)
    if prologue.transform is not None:
        prologue.transform(got, None if weight is None else torch.from_numpy(weight), 1e-5, COLUMNS, scratch)
    if prologue.gated:
        got.mul_(torch.from_numpy(other))
    assert np.array_equal(got.numpy(), want, equal_nan=True)
    assert np.array_equal(np.signbit(got.numpy()) & ~np.isnan(want), np.signbit(want) & ~np.isnan(want))


@pytest.mark.parametrize("name", NAMES)
def test_formula_and_name_are_said(name: str) -> None:
    assert PROLOGUES[name].name == name
    assert PROLOGUES[name].formula


def test_unknown_prologue_names_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match=r"prologue: got 'rms_norm', accepted: hadamard16.*did you mean 'rmsnorm'"):
        get_prologue("rms_norm")
