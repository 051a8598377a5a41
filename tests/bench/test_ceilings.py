"""Ceilings are rates of the work that the probes do, and shares are of the right one."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.ceilings import PREFIX, Ceilings, Probes, middle
from narrowgauge.bench.timer import Timing, time_interleaved

ONE = Ceilings(2e9, {"float32": 4e12, "int8": 8e12})


def test_probes_do_the_work_they_count() -> None:
    probes = Probes(size=32, copy_bytes=4096)
    calls = probes.calls()
    assert set(calls) == {f"{PREFIX}copy", *(f"{PREFIX}{unit}" for unit in probes.units)}
    assert calls[f"{PREFIX}copy"]().nbytes == 4096
    assert all(calls[f"{PREFIX}{unit}"]().shape == (32, 32) for unit in probes.units)
    second = Timing(1.0, 1.0, 1.0, 1.0, 9, 1)
    read = probes.read(dict.fromkeys(calls, second))
    assert read.copy == 2 * 4096
    assert set(read.matrix.values()) == {2.0 * 32**3}


def test_what_a_cpu_measures() -> None:
    units = Probes(size=16, copy_bytes=64).units
    assert units == (("float32", "int8") if torch.cpu._is_vnni_supported() else ("float32",))


def test_measured_with_competitors() -> None:
    probes = Probes(size=16, copy_bytes=4096)
    timings = time_interleaved({"own": lambda: None, **probes.calls()}, repetitions=9, min_seconds=0.0)
    figures = probes.read(timings).figures()
    assert {"copy_gb_per_s", "float32_tflop_per_s"} <= set(figures)
    assert all(value > 0 for value in figures.values())


def test_shares() -> None:
    assert ONE.share_of_copy(1e9) == 50.0
    assert ONE.share_of_peak(4e12, "int8") == 50.0
    with pytest.raises(ValueError, match="unit: got 'float8_e4m3fn', accepted: float32, int8"):
        ONE.share_of_peak(1.0, "float8_e4m3fn")


def test_middle_of_several_runs() -> None:
    other, third = Ceilings(6e9, {"float32": 1e12, "int8": 9e12}), Ceilings(3e9, {"float32": 5e12, "int8": 1e12})
    assert middle([ONE, other, third]).figures() == {
        "copy_gb_per_s": 3.0,
        "float32_tflop_per_s": 4.0,
        "int8_tflop_per_s": 8.0,
    }
    with pytest.raises(ValueError, match="expected at least one"):
        middle([])
