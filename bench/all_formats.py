"""How long it takes to quantise a tensor to every registered format of at most 8 bits, and others to those they know.

Each format is measured in turn with a copy of the tensor. Before any of them is timed, all have to give the reference's
bits. What no kernel serves is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from narrowgauge.bench.machine import check_device, package_version
from narrowgauge.bench.peer import ABSENT, Peer, own_result, percent_equal
from narrowgauge.bench.peers import find_peers
from narrowgauge.bench.quantize import SEED
from narrowgauge.bench.quantize_check import check_conformance
from narrowgauge.bench.quantize_competitors import BASELINE, COPY, own_quantizer
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import MIN_REPETITIONS, Timing, time_interleaved
from narrowgauge.formats import BlockFormat, Scheme, get, names, parse
from narrowgauge.kernels import get_op

MOST_BITS = 8
OWN = "narrowgauge"
CLONE_NOTE = "x.clone(): the middle one of the copies timed with the formats; new memory each time"
COPY_NOTE = "out.copy_(x): the same into memory that is there; steadier, since the system has no pages to hand out"
PEER_PACKAGES = ("ml_dtypes", "gfloat", "torchao", "bitsandbytes", "pychop", "qtorch")

Progress = Callable[[int, int, str], None]
"""Told how many formats are done, of how many, and which one is next."""


@dataclass(frozen=True)
class Measured:
    """One format: the copies that were timed in turn with it, the rows, and the peers that are not installed."""

    clone: Timing
    copy: Timing
    rows: Sequence[Row]
    absent: Sequence[str]


def narrow_formats() -> tuple[str, ...]:
    """Names of the registered formats whose codes have at most 8 bits, in order of registration."""
    return tuple(name for name in names() if get(name).bits <= MOST_BITS)


def scheme_text(name: str) -> str:
    """The scheme that is measured: a scale for each row, block formats in their own blocks."""
    return name if isinstance(get(name), BlockFormat) else f"{name}/row"


def run_suite(
    size: int = 4096,
    only: Sequence[str] | None = None,
    *,
    device: torch.device | str = "cpu",
    repetitions: int = MIN_REPETITIONS,
    peers: bool = True,
    progress: Progress | None = None,
) -> SuiteResult:
    """Times `quantize`, eager, and the peers on a normal float32 tensor [size, size], for the formats `only` (all).

    Rows are named by their scheme, `e4m3fn/row`, those of peers `e4m3fn/row by gfloat`. Their ratio is to `x.clone()`
    measured in turn with them, the figure times_copy the ratio to `out.copy_(x)`. A clone takes new memory, for which a
    system can need many times as long as for the copy, or not: where one is off, the other tells. Further figures as
    in `narrowgauge.bench.quantize`; for peers that give no codes, codes_equal_percent counts values.

    Raises AssertionError, naming every format whose bits are not the reference's, ValueError for sizes below 1 and
    unknown formats.
    """
    check_device(device)
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    chosen = narrow_formats() if only is None else tuple(get(name).name for name in only)
    x = torch.randn((size, size), generator=torch.Generator().manual_seed(SEED)).to(device)
    schemes, skipped = served(x, chosen)
    check_all(x, schemes)
    measured: list[Measured] = []
    for done, spec in enumerate(schemes):
        if progress is not None:
            progress(done, len(schemes), str(spec))
        measured.append(_measure(x, spec, peers, repetitions))
    rows = [*_baselines(x, measured), *(row for each in measured for row in each.rows)]
    settings = {"size": size, "granularity": "row, or the format's blocks", "dtype": "float32", "device": str(x.device)}
    settings |= {"seed": SEED, "repetitions": repetitions, "formats": len(schemes), **_versions(rows)}
    skipped |= {name: ABSENT for each in measured for name in each.absent}
    roofs = [row.figures["gb_per_s"] for row in rows if row.name in (BASELINE, COPY)]
    return SuiteResult(
        "formats", settings, BASELINE, rows, skipped, ceilings={"copy_gb_per_s": max(roofs, default=0.0)}
    )


def served(x: Tensor, chosen: Sequence[str]) -> tuple[list[Scheme], dict[str, str]]:
    """The schemes of these formats that a kernel serves on the device of x, and why the others are left out."""
    schemes, skipped = [], {}
    for name in chosen:
        try:
            spec = parse(scheme_text(name))
            own_result(x[:2], spec)
        except ValueError as reason:
            skipped[name] = str(reason)
        else:
            schemes.append(spec)
    return schemes, skipped


def check_all(x: Tensor, schemes: Sequence[Scheme]) -> None:
    """AssertionError that names every scheme whose codes or scales differ from the reference's on the first rows."""
    wrong = []
    for spec in schemes:
        try:
            check_conformance(x, spec, own_quantizer(spec))
        except AssertionError as difference:
            wrong.append(f"{spec}: {difference}")
    if wrong:
        raise AssertionError("\n".join(wrong))


def _measure(x: Tensor, spec: Scheme, with_peers: bool, repetitions: int) -> Measured:
    peers, missing = find_peers(x, spec) if with_peers else ({}, {})
    quantizer = own_quantizer(spec)
    out = torch.empty_like(x)
    calls: dict[str, Callable[[], object]] = {BASELINE: x.clone, COPY: lambda: out.copy_(x), OWN: lambda: quantizer(x)}
    calls |= {name: peer.call for name, peer in peers.items()}
    timings = time_interleaved(calls, device=x.device, repetitions=repetitions, warmup=1)
    absent = tuple(name for name, why in missing.items() if why == ABSENT)
    return Measured(timings[BASELINE], timings[COPY], tuple(_rows(x, spec, timings, peers)), absent)


def _rows(x: Tensor, spec: Scheme, timings: dict[str, Timing], peers: dict[str, Peer]) -> Iterator[Row]:
    clone, copy = timings[BASELINE].median, timings[COPY].median
    moved = get_op("quantize").cost(x, str(spec), 0, 0).bytes
    own = timings[OWN]
    roof = 2 * x.nbytes / min(clone, copy)
    yield Row(str(spec), own, own.median / clone, _figures(own.median, moved, copy, roof))
    if not peers:
        return
    ours = own_result(x, spec)
    for name, peer in peers.items():
        seconds = timings[name].median * peer.factor
        figures = _figures(seconds, moved, copy, roof) | {"codes_equal_percent": percent_equal(peer, ours)}
        yield Row(f"{spec} by {name}", timings[name], seconds / clone, figures, peer.note)


def _figures(seconds: float, moved: float, copy: float, roof: float) -> dict[str, float]:
    """roof: bytes per second of the faster copy."""
    rate = moved / seconds
    figures = {"milliseconds": seconds * 1e3, "gb_per_s": rate / 1e9, "copy_percent": 100 * rate / roof}
    return {**figures, "times_copy": seconds / copy}


def _baselines(x: Tensor, measured: Sequence[Measured]) -> Iterator[Row]:
    if measured:
        clone, copy = _middle([each.clone for each in measured]), _middle([each.copy for each in measured])
        for name, timing, note in ((BASELINE, clone, CLONE_NOTE), (COPY, copy, COPY_NOTE)):
            roof = 2 * x.nbytes / min(clone.median, copy.median)
            figures = _figures(timing.median, 2 * x.nbytes, copy.median, roof)
            yield Row(name, timing, timing.median / clone.median, figures, note)


def _middle(timings: Sequence[Timing]) -> Timing:
    """That of them whose median is the (lower) median of all."""
    return sorted(timings, key=lambda timing: timing.median)[(len(timings) - 1) // 2]


def _versions(rows: Sequence[Row]) -> dict[str, str]:
    """Versions of the peers that were timed."""
    timed = {row.name.partition(" by ")[2] for row in rows}
    return {package: package_version(package) or "unknown" for package in PEER_PACKAGES if package in timed}
