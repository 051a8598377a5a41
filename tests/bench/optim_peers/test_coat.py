"""The model of COAT's kernel has the defects that the kernel was published with."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.bench.optim_peers.coat import KERNEL_RANGE, PAPER_RANGE, Coat, contract
from narrowgauge.numerics import relative_rms

KERNEL = Coat("kernel", released=True, target=KERNEL_RANGE)
PAPER = Coat("paper", released=False, target=PAPER_RANGE)


def moment(count: int = 128, seed: int = 0) -> np.ndarray:
    return (1e-4 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def error(codec: Coat, x: np.ndarray) -> float:
    others = x != 0
    with np.errstate(all="ignore"):
        read = contract(codec.expand(x)).reshape(-1)[: x.size]
    return relative_rms(read[others], x[others])


@pytest.mark.parametrize("codec", [KERNEL, PAPER])
def test_ordinary_groups_keep_one_to_two_percent(codec: Coat) -> None:
    assert 0.005 < error(codec, moment()) < 0.025


@pytest.mark.parametrize("codec", [KERNEL, PAPER])
def test_a_constant_group_becomes_nan_or_survives_by_luck(codec: Coat) -> None:
    survived = {}
    for value in (1e-3, 0.37, 1.0, 3e-7):
        x = np.full(128, value, np.float32)
        m, _ = codec.load(codec.store(x, x))
        survived[value] = bool(np.isfinite(m).all())
    assert survived == {1e-3: False, 0.37: True, 1.0: True, 3e-7: True}


def test_a_group_of_zeros_reads_back_as_zeros() -> None:
    m, v = KERNEL.load(KERNEL.store(np.zeros(128, np.float32), np.zeros(128, np.float32)))
    assert not m.any()
    assert not v.any()


def test_one_zero_in_lane_0_costs_the_kernel_its_group() -> None:
    x = moment()
    x[0] = 0.0
    stored = KERNEL.expand(x)
    assert stored.power[0, 0] < 0.25
    assert error(KERNEL, x) > 0.1
    assert error(PAPER, x) < 0.025


def test_a_zero_in_lane_32_hides_warps_1_and_3() -> None:
    x = moment()
    smallest = int(np.argmin(np.abs(x)))
    x[[40, smallest]] = x[[smallest, 40]]
    seen = KERNEL.expand(x).power[0, 0]
    x[32] = 0.0
    assert KERNEL.expand(x).power[0, 0] > seen
    assert PAPER.expand(x).power[0, 0] == pytest.approx(PAPER.expand(np.delete(x, 32)).power[0, 0])


def test_a_zero_elsewhere_does_no_harm() -> None:
    x = moment()
    x[5] = 0.0
    assert error(KERNEL, x) < 0.025


def test_one_tiny_value_costs_precision() -> None:
    x = moment()
    usual = KERNEL.expand(x).power[0, 0]
    x[7] = 1e-12
    assert KERNEL.expand(x).power[0, 0] < usual / 2
    assert error(KERNEL, x) > 0.03


def test_the_kernels_powers_are_sixteenths_rounded_down() -> None:
    powers = KERNEL.expand(moment(128 * 50)).power
    exact = np.log2(448.0**2 / 2) / np.log2(_ranges(moment(128 * 50)))
    assert (powers * 16 == np.floor(powers * 16)).all()
    assert ((powers <= exact + 1e-3) & (powers > exact - 1 / 16 - 1e-3)).all()


def _ranges(x: np.ndarray) -> np.ndarray:
    groups = np.abs(x.reshape(-1, 128)).astype(np.float64)
    return groups.max(axis=1, keepdims=True) / groups.min(axis=1, keepdims=True)


def test_state_is_two_codes_and_six_numbers_for_128_elements() -> None:
    first, second, _ = KERNEL.store(moment(256), np.square(moment(256)))
    size = sum(part.nbytes for stored in (first, second) for part in stored)
    assert size / 256 == KERNEL.bytes_per_parameter == 2.1875
