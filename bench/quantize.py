"""How long it takes to quantise a tensor and to read it back: against copying it, and against other implementations.

Every implementation of ours, and a function of the user's, is compared with the reference on the timed shape before and
after the timing; where its bits are wrong nothing is reported. On each shape all rows are measured in turn.

    gb_per_s       bytes that the task has to move at least (each element read and written once, and the scales), / time
    copy_percent   the same as a share of the faster one of `x.clone()` and `out.copy_(x)` of that shape
    times_rn       time of a scheme with stochastic rounding / time of the scheme without, where both are measured
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch

from narrowgauge.bench.compiler import why_not_compiled
from narrowgauge.bench.machine import check_device
from narrowgauge.bench.quantize_check import Quantizer, why_no_function
from narrowgauge.bench.quantize_competitors import BASELINE, OPS, Competitor, competitors
from narrowgauge.bench.quantize_shapes import Shape, matrices, shape_text
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import Timing, time_interleaved
from narrowgauge.formats import Scheme, parse

SEED = 20260101
SCHEMES = ("e4m3fn/row", "e4m3fn/row+sr")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPILED_AT_MOST = 64
"""Schemes that torch.compile may meet with one and the same code."""


def run_suite(
    schemes: Sequence[str | Scheme] = SCHEMES,
    *,
    shapes: Sequence[str] = (),
    models: Sequence[str] = (),
    tokens: int = 2048,
    size: int = 4096,
    dtype: str = "float32",
    ops: Sequence[str] = ("quantize",),
    functions: Mapping[str, Quantizer] | None = None,
    device: torch.device | str = "cpu",
    repetitions: int = 15,
    peers: bool = True,
    compiled: bool = True,
    save: Callable[[SuiteResult], None] | None = None,
) -> SuiteResult:
    """Times `ops` for `schemes` on normal values, on each of `shapes` ("MxK") and of what the linear layers of `models`
    read for so many `tokens`, or on [size, size] where neither is given.

    functions: name → somebody's quantiser, x → (codes, scale), which is checked and timed for every scheme. save is
    given what there is after each shape. Rows are called "4096x4096: e4m3fn/row", "…, compiled", "… by torchao" and
    "4096x4096: dequantize e4m3fn/row". Figures: milliseconds and those of the module's docstring; of peers and
    functions codes_equal_percent.

    Raises AssertionError where bits are wrong (`WrongResult` of a function of the user's), ValueError for shapes,
    schemes, dtypes and names that are unknown or empty.
    """
    check_device(device)
    specs = list(dict.fromkeys(parse(scheme) for scheme in schemes))
    if not specs:
        raise ValueError("schemes: expected at least one")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, accepted: {', '.join(DTYPES)}")
    if unknown := [op for op in ops if op not in OPS]:
        raise ValueError(f"op: got {unknown[0]!r}, accepted: {', '.join(OPS)}")
    if functions and ("quantize" not in ops or all(why_no_function(spec) for spec in specs)):
        reason = why_no_function(specs[0]) if "quantize" in ops else "a function is timed by the op quantize"
        raise ValueError(f"functions: nothing to compare with: {reason}")
    chosen = matrices(shapes, models, tokens, size)
    settings = {"dtype": dtype, "device": str(torch.device(device)), "seed": SEED, "repetitions": repetitions}
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    ceilings: dict[str, float] = {}
    result = SuiteResult("quantize", settings, BASELINE, rows, skipped, ceilings=ceilings)
    for shape in chosen:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device, DTYPES[dtype])
        why_not = why_not_compiled(compiled, x.device)
        with _compiling() if why_not is None else nullcontext():
            entered = list(competitors(x, specs, ops, functions or {}, peers, why_not, skipped))
            timings = _timed(entered, device, repetitions)
        roof = max(c.bytes / timings[c.name].median for c in entered[:2])
        ceilings["copy_gb_per_s"] = max(roof / 1e9, ceilings.get("copy_gb_per_s", 0.0))
        rows += _rows(shape, entered, timings, roof)
        if save is not None:
            save(result)
    return result


@contextmanager
def _compiling() -> Iterator[None]:
    """Room for all schemes, and what was compiled for them is forgotten at the end."""
    with torch._dynamo.config.patch(recompile_limit=COMPILED_AT_MOST):
        yield
    torch.compiler.reset()


def _timed(entered: Sequence[Competitor], device: torch.device | str, repetitions: int) -> dict[str, Timing]:
    """Checks, times, and checks again."""
    for competitor in entered:
        _check(competitor)
    calls = {competitor.name: competitor.call for competitor in entered}
    timings = time_interleaved(calls, device=device, repetitions=repetitions)
    for competitor in entered:
        _check(competitor)
    return timings


def _check(competitor: Competitor) -> None:
    try:
        competitor.check()
    except AssertionError as difference:
        raise type(difference)(f"{competitor.name}: {difference}") from difference


def _rows(shape: Shape, entered: Sequence[Competitor], timings: Mapping[str, Timing], roof: float) -> Iterator[Row]:
    seconds = {c.name: timings[c.name].median * c.factor for c in entered}
    for c in entered:
        own = seconds[c.name]
        figures = {"milliseconds": own * 1e3, "gb_per_s": c.bytes / own / 1e9}
        figures["copy_percent"] = 100 * c.bytes / own / roof
        nearest = c.scheme.replace("+sr", "")
        if nearest != c.scheme and nearest in seconds:
            figures["times_rn"] = own / seconds[nearest]
        figures |= c.figures or {}
        yield Row(f"{shape_text(shape)}: {c.name}", timings[c.name], own / seconds[BASELINE], figures, c.note)
