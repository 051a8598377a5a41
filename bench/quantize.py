"""How long it takes to quantise a tensor: against copying it, and against the other implementations installed here.

The operator's bits are compared with the reference before its speed counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from narrowgauge.bench.compiler import why_not_compiled
from narrowgauge.bench.peer import Peer, own_result, percent_equal
from narrowgauge.bench.peers import find_peers
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import Timing, time_interleaved
from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels import get_op
from narrowgauge.numerics import assert_bitwise

Codes = tuple[Tensor, Tensor]

BASELINE = "clone"
OWN = ("eager", "compiled")
SEED = 20260101
CONFORMANCE_ROWS = 64


def own_quantizer(spec: Scheme) -> Callable[[Tensor], Codes]:
    """x → (codes, scale) by the operator; stochastic schemes take a fixed seed."""

    def run(x: Tensor) -> Codes:
        q = own_result(x, spec)
        return q.codes, q.scale

    return run


def check_conformance(x: Tensor, spec: Scheme, run: Callable[[Tensor], Codes]) -> None:
    """AssertionError, naming the first difference, unless `run` gives the reference's bits on the first rows of x."""
    part = x[:CONFORMANCE_ROWS].contiguous()
    codes, scale, _ = get_op("quantize").implementation("reference")(part.cpu(), str(spec), 0, 0)
    own_codes, own_scale = run(part)
    assert_bitwise(own_codes.cpu(), codes)
    assert_bitwise(own_scale.cpu(), scale)


def run_suite(
    size: int = 4096,
    scheme: str | Scheme = "e4m3fn/row",
    *,
    device: torch.device | str = "cpu",
    repetitions: int = 15,
    peers: bool = True,
    compiled: bool = True,
) -> SuiteResult:
    """Times `clone`, `eager`, `compiled` and the peers on a normal float32 tensor [size, size].

    Figures of a row: gb_per_s (bytes that the task has to move, over the time) and, for peers, codes_equal_percent.
    Raises AssertionError when the operator's bits are not the reference's, ValueError for sizes below 1 and unknown
    schemes.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    spec = parse(scheme)
    x = torch.randn((size, size), generator=torch.Generator().manual_seed(SEED)).to(device)
    eager = own_quantizer(spec)
    check_conformance(x, spec, eager)
    calls: dict[str, Callable[[], object]] = {BASELINE: x.clone, "eager": lambda: eager(x)}
    found, skipped = find_peers(x, spec) if peers else ({}, {})
    reason = why_not_compiled(compiled, x.device)
    if reason is None:
        fused = torch.compile(own_quantizer(spec), fullgraph=True)
        _check_same(fused(x), eager(x))
        calls["compiled"] = lambda: fused(x)
    else:
        skipped["compiled"] = reason
    calls |= {name: peer.call for name, peer in found.items()}
    timings = time_interleaved(calls, device=device, repetitions=repetitions)
    rows = _rows(x, spec, timings, found)
    settings = {"size": size, "scheme": str(spec), "dtype": "float32", "device": str(x.device), "seed": SEED}
    return SuiteResult("quantize", {**settings, "repetitions": repetitions}, BASELINE, rows, skipped)


def _check_same(compiled: Codes, eager: Codes) -> None:
    for ours, expected in zip(compiled, eager, strict=True):
        assert_bitwise(ours.cpu(), expected.cpu())


def _rows(x: Tensor, spec: Scheme, timings: dict[str, Timing], peers: dict[str, Peer]) -> Sequence[Row]:
    base = timings[BASELINE].median
    moved = get_op("quantize").cost(x, str(spec), 0, 0).bytes
    ours = own_result(x, spec)
    rows = []
    for name, timing in timings.items():
        peer = peers.get(name)
        factor = peer.factor if peer is not None else 1.0
        seconds = timing.median * factor
        figures = {"milliseconds": seconds * 1e3}
        figures["gb_per_s"] = (2 * x.nbytes if name == BASELINE else moved) / seconds / 1e9
        if peer is not None:
            figures["codes_equal_percent"] = percent_equal(peer, ours)
        note = peer.note if peer is not None else _NOTES[name]
        rows.append(Row(name, timing, seconds / base, figures, note))
    return rows


_NOTES = {
    BASELINE: "x.clone(): the same tensor, read and written once",
    "eager": "narrowgauge.quantize",
    "compiled": "narrowgauge.quantize under torch.compile; same bits",
}
