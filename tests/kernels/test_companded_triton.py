"""The arithmetic of companded moments in Triton: logarithms, reciprocals, and the extremes of groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels import _companded_triton
from narrowgauge.kernels._triton import jit, tl

SIZE = 1 << 14


@jit
def _kernel(x_ptr, log_ptr, reciprocal_ptr, N: tl.constexpr):
    index = tl.arange(0, N)
    x = tl.load(x_ptr + index)
    tl.store(log_ptr + index, _companded_triton.log2(x))
    tl.store(reciprocal_ptr + index, _companded_triton.reciprocal(x))


@jit
def _extremes_kernel(x_ptr, out_ptr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    rows = tl.arange(0, ROWS)[:, None]
    x = tl.load(x_ptr + rows * WIDTH + tl.arange(0, WIDTH)[None, :])
    high, low, occupied, finite = _companded_triton.extremes(_companded_triton.above_smallest(x))
    tl.store(out_ptr + rows * 4, high)
    tl.store(out_ptr + rows * 4 + 1, low)
    tl.store(out_ptr + rows * 4 + 2, occupied.to(tl.float32))
    tl.store(out_ptr + rows * 4 + 3, finite.to(tl.float32))


def normal_floats(rng: np.random.Generator) -> Tensor:
    """Positive normal numbers of every exponent, powers of two and their neighbours among them."""
    bits = rng.integers(1 << 23, 0x7F800000, SIZE)
    powers = np.arange(1, 255) << 23
    bits[:762] = np.concatenate([powers, powers + 1, np.maximum(powers - 1, 1 << 23)])
    return torch.from_numpy(bits.astype(np.int32)).view(torch.float32)


def run(x: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    log, inverse = torch.empty(SIZE, device=device), torch.empty(SIZE, device=device)
    _kernel[(1,)](x.to(device), log, inverse, N=SIZE)
    return log.cpu().double(), inverse.cpu().double()


def test_logarithms_are_good_to_what_an_exponential_is(rng: np.random.Generator, device: torch.device) -> None:
    x = normal_floats(rng)
    log, _ = run(x, device)
    exact = x.double().log2()
    assert ((log - exact).abs() <= 4e-7 + 2.0**-24 * exact.abs()).all()


def test_logarithms_of_powers_of_two_are_exact(rng: np.random.Generator, device: torch.device) -> None:
    log, _ = run(normal_floats(rng), device)
    assert torch.equal(log[:254], torch.arange(-126, 128).double())


def test_reciprocals_are_good_to_three_ulps(rng: np.random.Generator, device: torch.device) -> None:
    x = normal_floats(rng)
    _, inverse = run(x, device)
    exact = 1 / x.double()
    normal = exact >= 2.0**-126
    assert ((inverse - exact).abs() <= 2.0**-21 * exact)[normal].all()


@pytest.mark.parametrize(("values", "expected"), [
    ([0.0, 3.0, -5.0, 2.0**-126], (5.0, 2.0**-126, 1, 1)),
    ([0.0, 2.0**-127, -(2.0**-149), 0.0], (1.0, 1.0, 0, 1)),
    ([0.25, 0.25, 0.25, 0.25], (0.25, 0.25, 1, 1)),
    ([1.0, float("nan"), 2.0, 3.0], (None, 1.0, 1, 0)),
    ([1.0, -float("inf"), 2.0, 3.0], (None, 1.0, 1, 0)),
])  # fmt: skip
def test_extremes_leave_zeros_and_subnormal_numbers_out(
    values: list[float], expected: tuple[float | None, ...], device: torch.device
) -> None:
    out = torch.empty(2, 4, device=device)
    x = torch.tensor([values, [1.0, 2.0, 4.0, 8.0]], device=device)
    _extremes_kernel[(1,)](x, out, ROWS=2, WIDTH=4)
    assert all(want is None or got == want for got, want in zip(out[0].tolist(), expected, strict=True))
    assert out[1].tolist() == [8.0, 1.0, 1.0, 1.0]
