"""What a machine can do at most, measured: copy bandwidth, and the rate of large matrix products of each kind.

A suite times these calls in turn with its competitors, so that a share compares what was measured at the same time:

    copy_gb_per_s      out.copy_(x) of a tensor larger than the caches; read once and written once
    float32_tflop_per_s, bfloat16_…, float16_…, float8_e4m3fn_…, int8_…
                       torch.mm, or torch._scaled_mm and torch._int_mm, of square matrices; 2·n³ operations

On a CPU the kinds are float32 and, with VNNI, int8; on a GPU float8 takes compute capability 8.9. They are roofs by
measurement, not by data sheet: a competitor that does better than torch has a share above 100 %.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from narrowgauge.bench.timer import Timing

COPY = "copy"
COPY_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
FLOAT8_CAPABILITY = (8, 9)
"""The first compute capability whose matrix units take float8."""
PREFIX = "ceiling "


@dataclass(frozen=True)
class Probe:
    """A call and its work: bytes of a copy, operations of a product."""

    call: Callable[[], object]
    work: float


@dataclass(frozen=True)
class Ceilings:
    """copy: bytes per second. matrix: operations per second, by the operands' dtype ("float32", "int8", …)."""

    copy: float
    matrix: Mapping[str, float]

    def share_of_copy(self, bytes_per_s: float) -> float:
        """Percent of the copy bandwidth."""
        return 100.0 * bytes_per_s / self.copy

    def share_of_peak(self, flop_per_s: float, unit: str) -> float:
        """Percent of the rate of matrices of dtype `unit`. ValueError where that was not measured."""
        if unit not in self.matrix:
            raise ValueError(f"unit: got {unit!r}, accepted: {', '.join(self.matrix)}")
        return 100.0 * flop_per_s / self.matrix[unit]

    def figures(self) -> dict[str, float]:
        """Names with units, as `SuiteResult.ceilings` has them."""
        rates = {f"{unit}_tflop_per_s": rate / 1e12 for unit, rate in self.matrix.items()}
        return {f"{COPY}_gb_per_s": self.copy / 1e9, **rates}


class Probes:
    """The calls that measure a device; they keep their operands from one run to the next.

    size: of the square matrices; copy_bytes: of the tensor that is copied; None: what suits the kind of device.
    """

    def __init__(
        self, device: torch.device | str = "cpu", *, size: int | None = None, copy_bytes: int | None = None
    ) -> None:
        self.device = torch.device(device)
        kind = "cpu" if self.device.type == "cpu" else "cuda"
        count = MATRIX_SIZE[kind] if size is None else size
        words = (COPY_BYTES[kind] if copy_bytes is None else copy_bytes) // 4
        source = torch.ones(words, device=self.device)
        target = torch.zeros_like(source)
        self._probes = {COPY: Probe(lambda: target.copy_(source), 2.0 * source.nbytes)}
        for unit, call in _matrix_calls(count, self.device).items():
            self._probes[unit] = Probe(call, 2.0 * count**3)

    @property
    def units(self) -> tuple[str, ...]:
        """The dtypes whose products are measured."""
        return tuple(name for name in self._probes if name != COPY)

    def calls(self) -> dict[str, Callable[[], object]]:
        """What is to be timed together with the competitors; the names begin with `PREFIX`."""
        return {f"{PREFIX}{name}": probe.call for name, probe in self._probes.items()}

    def read(self, timings: Mapping[str, Timing]) -> Ceilings:
        """The ceilings by the timings of `calls`, medians."""
        rates = {name: probe.work / timings[f"{PREFIX}{name}"].median for name, probe in self._probes.items()}
        return Ceilings(rates.pop(COPY), rates)


def middle(found: Sequence[Ceilings]) -> Ceilings:
    """The median of each ceiling over several runs. ValueError for none."""
    if not found:
        raise ValueError("found: expected at least one run's ceilings")
    matrix = {unit: statistics.median(one.matrix[unit] for one in found) for unit in found[0].matrix}
    return Ceilings(statistics.median(one.copy for one in found), matrix)


def _matrix_calls(size: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    plain = torch.randn((size, size), generator=torch.Generator().manual_seed(0)).to(device)
    calls = {"float32": _product(plain)}
    codes = plain.mul(32).clamp(-127, 127).to(torch.int8)
    if device.type != "cpu" or torch.cpu._is_vnni_supported():  # other CPUs take seconds
        calls["int8"] = lambda: torch._int_mm(codes, codes.t())
    if device.type == "cpu":
        return calls
    calls |= {"bfloat16": _product(plain.bfloat16()), "float16": _product(plain.half())}
    if torch.version.hip is None and torch.cuda.get_device_capability(device) >= FLOAT8_CAPABILITY:
        narrow, one = plain.to(torch.float8_e4m3fn), torch.ones((), device=device)
        calls["float8_e4m3fn"] = lambda: torch._scaled_mm(
            narrow, narrow.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    return calls


def _product(x: Tensor) -> Callable[[], Tensor]:
    return lambda: torch.mm(x, x.t())
