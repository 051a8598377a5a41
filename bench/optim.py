"""One step of AdamW with each state codec: time, bytes and temporary memory, against torch's fused step in float32.

Before anything is timed, the codec is held to the contract of `numerics.check_optimizer`, the fused step to its
reference, and the compiled step to the eager one. Each row is measured in turn with the baseline, whose tensors are the
same, so that memory holds the states of two optimizers and not of thirty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from narrowgauge.bench.compiler import why_not_compiled
from narrowgauge.bench.conformance import check_samples
from narrowgauge.bench.llama_shapes import llama_shapes
from narrowgauge.bench.machine import check_device
from narrowgauge.bench.optim_peer_steps import PART, PEERS
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.temporaries import peak_bytes
from narrowgauge.bench.timer import Timing, time_interleaved
from narrowgauge.kernels.codecs import CODECS
from narrowgauge.kernels.optimizer_step import OPTIMIZER_STEP
from narrowgauge.numerics import check_optimizer, nmse
from narrowgauge.optim import AdamW
from narrowgauge.optim.codec_check import named_codec
from narrowgauge.optim.memory import total_bytes

BASELINE = "torch fused"
SEED = 20260101
GRADIENT = 1e-3
"""Root mean square of the gradients."""
SAME_STEP = 1e-6
"""NMSE between a compiled and an eager step, beyond which they are not the same step."""
CPU_TIMES = 3
CONTRACT_ALONE = ("zero v", "re-encoding", "unbiased", "tracking")
Show = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Competitor:
    """share: of the model's elements that `params` have."""

    name: str
    make: Callable[[Sequence[Parameter]], Optimizer]
    params: Sequence[Parameter]
    note: str
    share: float = 1.0


def run_suite(
    parameters: int = 50_000_000,
    states: Sequence[str] | None = None,
    *,
    device: torch.device | str = "cpu",
    repetitions: int = 9,
    peers: bool = True,
    compiled: bool = True,
    show: Show | None = None,
) -> SuiteResult:
    """Times one step over the tensors of a Llama with `parameters` elements, float32, for `states` (None: all).

    Figures of a row: milliseconds and ns_per_parameter of a step of all elements; ratio_of_best, of the shortest
    measurements, and on the CPU cpu_ns_per_parameter, the time of all threads together, which others on the machine
    disturb less; bytes_per_parameter of the moments (live storage, everything in the optimizer's state);
    temporary_percent, the peak of memory within a step, of the state's bytes; static_bytes, weights, residual, state
    and gradient per parameter, for ours with bfloat16 weights and gradients and an int8 residual. show(done, total,
    what is next) is called before each row.

    Raises AssertionError where a codec or a step is not right, ValueError for unknown states, fewer than 9 repetitions
    and models that are too small.
    """
    check_device(device)
    names = list(CODECS if states is None else states)
    shapes = llama_shapes(parameters)
    for name in names:
        check_state(name, device)
    params = [_parameter(shape, number, device) for number, shape in enumerate(shapes)]
    skipped: dict[str, str] = {}
    competitors = [
        _Competitor("torch foreach", _torch_adamw(foreach=True), params, "torch.optim.AdamW(foreach=True), float32")
    ]
    why_not = why_not_compiled(compiled, device)
    if why_not is None and torch.device(device).type != "cpu":
        why_not = "compiled steps are for CPU parameters, those of a GPU have a kernel"
    for name in names:
        competitors += list(_of_state(name, params, why_not, skipped))
    if peers:
        competitors += list(_peers(params, skipped))
    report = show or (lambda done, total, what: None)
    rows: list[Row] = []
    for number, competitor in enumerate(competitors):
        report(number, len(competitors), competitor.name)
        rows += _measured(competitor, params, device, repetitions, with_baseline=not rows)
    count = sum(p.numel() for p in params)
    settings = {"parameters": count, "tensors": len(params), "dtype": "float32", "device": str(torch.device(device))}
    return SuiteResult("optim", {**settings, "repetitions": repetitions, "seed": SEED}, BASELINE, rows, skipped)


def check_state(name: str, device: torch.device | str = "cpu") -> None:
    """AssertionError unless the codec keeps the contract of `check_optimizer`, and the fused step, where the codec goes
    through it, the bound to its reference. ValueError for unknown codecs."""
    codec = named_codec(name)
    # SOLO's v has, as published, no code for zero.
    known = ("zeros",) if codec.second.kind == "quantile" else ()
    report = check_optimizer(codec, skip=(*CONTRACT_ALONE, *known))
    assert report.ok, report.table()
    if codec.first.fused and codec.second.fused:
        check_samples(OPTIMIZER_STEP, device, lambda sample: _is_step_of(sample.args, name))


def _is_step_of(args: Sequence[Any], name: str) -> bool:
    rule, m_codec, v_codec = args[0], args[8], args[9]
    return bool(rule == "adamw" and m_codec == v_codec == name)


def _parameter(shape: tuple[int, ...], number: int, device: torch.device | str) -> Parameter:
    generator = torch.Generator().manual_seed(SEED + number)
    p = Parameter((0.02 * torch.randn(shape, generator=generator)).to(device))
    p.grad = (GRADIENT * torch.randn(shape, generator=generator)).to(device)
    return p


def _torch_adamw(**how: Any) -> Callable[[Sequence[Parameter]], Optimizer]:
    return lambda params: torch.optim.AdamW(params, **how)


def _own(name: str, compiled: bool, **options: Any) -> Callable[[Sequence[Parameter]], Optimizer]:
    return lambda params: AdamW(params, state=name, compiled=compiled, **options)


def _of_state(
    name: str, params: Sequence[Parameter], why_not: str | None, skipped: dict[str, str]
) -> Iterator[_Competitor]:
    yield _Competitor(name, _own(name, compiled=False), params, "narrowgauge AdamW")
    codec = named_codec(name)
    reason = why_not if codec.first.fused and codec.second.fused else "its codec needs whole tensors, no fused step"
    if reason is None:
        check_compiled(name)
        yield _Competitor(f"{name}, compiled", _own(name, compiled=True), params, "the same, by torch.compile")
    else:
        skipped[f"{name}, compiled"] = reason


def check_compiled(name: str) -> None:
    """AssertionError unless three compiled steps do what three eager ones do: in float32 the same but for roundings."""
    results = []
    for compiled in (False, True):
        params = [_parameter(shape, number, "cpu") for number, shape in enumerate(((96, 160), (1, 77)))]
        optimizer = AdamW(params, state=name, compiled=compiled)
        start = [p.detach().clone() for p in params]
        for _ in range(3):
            optimizer.step()
        results.append([p.detach() - old for p, old in zip(params, start, strict=True)])
    for eager, fused in zip(*results, strict=True):
        error = nmse(fused, eager)
        assert error <= SAME_STEP, f"{name}: the compiled step differs from the eager one, NMSE {error:.3g}"


def _peers(params: Sequence[Parameter], skipped: dict[str, str]) -> Iterator[_Competitor]:
    part = params[:PART]
    share = sum(p.numel() for p in part) / sum(p.numel() for p in params)
    for name, make in PEERS.items():
        try:
            make([Parameter(torch.zeros(1, device=params[0].device))])
        except ValueError as missing:
            skipped[name] = str(missing)
            continue
        yield _Competitor(name, make, part, f"timed on {100 * share:.0f} % of the elements", share)


def _measured(
    competitor: _Competitor, params: Sequence[Parameter], device: torch.device | str, repetitions: int, *,
    with_baseline: bool,
) -> Iterator[Row]:  # fmt: skip
    base = _torch_adamw(fused=True)(params)
    optimizer = competitor.make(competitor.params)
    calls = {BASELINE: base.step, competitor.name: optimizer.step}
    timings = time_interleaved(calls, device=device, repetitions=repetitions)
    count = sum(p.numel() for p in params)
    if with_baseline:
        note = "torch.optim.AdamW(fused=True), float32"
        figures = _figures(base, params, timings[BASELINE].median, count, device)
        figures |= {"ratio_of_best": 1.0, "static_bytes": _static(base, params)}
        yield Row(BASELINE, timings[BASELINE], 1.0, figures, note)
    seconds = timings[competitor.name].median / competitor.share
    figures = _figures(optimizer, competitor.params, seconds, count, device)
    figures["ratio_of_best"] = timings[competitor.name].best / competitor.share / timings[BASELINE].best
    if isinstance(optimizer, AdamW):
        figures["static_bytes"] = _static_in_bfloat16(competitor.params, optimizer)
    ratio = seconds / timings[BASELINE].median
    yield Row(competitor.name, _scaled(timings[competitor.name], competitor.share), ratio, figures, competitor.note)


def _scaled(timing: Timing, share: float) -> Timing:
    """The timing of the whole model."""
    return Timing(timing.median / share, timing.low / share, timing.high / share, timing.best / share,
                  timing.repetitions, timing.calls)  # fmt: skip


def _figures(
    optimizer: Optimizer, params: Sequence[Parameter], seconds: float, count: int, device: torch.device | str
) -> dict[str, float]:
    """What is measured of one optimizer; `seconds` are those of a step of all `count` elements."""
    state = total_bytes(_tensors(optimizer.state.values()))
    stepped = sum(p.numel() for p in params)
    figures = {"milliseconds": seconds * 1e3, "ns_per_parameter": seconds / count * 1e9}
    if torch.device(device).type == "cpu":
        figures["cpu_ns_per_parameter"] = min(_cpu_seconds(optimizer.step) for _ in range(CPU_TIMES)) / stepped * 1e9
    figures["bytes_per_parameter"] = state / stepped
    figures["temporary_percent"] = 100.0 * peak_bytes(optimizer.step, device) / state
    return figures


def _cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _tensors(value: Any) -> Iterator[Tensor]:
    """All plain tensors in a state, those within tensor subclasses as well."""
    if isinstance(value, Tensor):
        if hasattr(value, "__tensor_flatten__"):
            for name in value.__tensor_flatten__()[0]:
                yield from _tensors(getattr(value, name))
        else:
            yield value
    elif isinstance(value, Mapping):
        yield from _tensors(value.values())
    elif not isinstance(value, str | int | float) and value is not None:
        for part in value:
            yield from _tensors(part)


def _static(optimizer: Optimizer, params: Sequence[Parameter]) -> float:
    """Bytes per parameter of weights, gradients and state."""
    held = [*params, *(p.grad for p in params if p.grad is not None), *_tensors(optimizer.state.values())]
    return total_bytes(held) / sum(p.numel() for p in params)


def _static_in_bfloat16(params: Sequence[Parameter], optimizer: AdamW) -> float:
    """The same for bfloat16 weights and gradients and an int8 residual, after a step."""
    narrow = []
    for p in params:
        copy = Parameter(p.detach().bfloat16())
        copy.grad = None if p.grad is None else p.grad.bfloat16()
        narrow.append(copy)
    kept = AdamW(narrow, state=optimizer.param_groups[0]["state"], master="residual")
    kept.step()
    return kept.static_bytes().per_parameter
