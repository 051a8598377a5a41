"""What the suite `quantize` times: copies, our operators, other people's, and functions of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from narrowgauge.bench.peer import ABSENT, Peer, own_result, percent_equal
from narrowgauge.bench.peers import find_peers
from narrowgauge.bench.quantize_check import (
    Codes,
    Quantizer,
    check_compiled,
    check_conformance,
    check_dequantizer,
    check_function,
    check_own,
    check_pair,
    why_no_function,
)
from narrowgauge.formats import Scheme
from narrowgauge.kernels import get_op
from narrowgauge.kernels.quantize_pair import QUANTIZE_PAIR

BASELINE = "clone"
COPY = "copy_"
OPS = ("quantize", "dequantize", "pair")
Skipped = dict[str, str]


@dataclass(frozen=True)
class Competitor:
    """What is timed. bytes: to be moved at least. check: raises AssertionError where the result is wrong. factor: how
    often its time counts. figures: what is known beforehand. scheme: of our rows that quantise."""

    name: str
    call: Callable[[], object]
    bytes: float
    note: str
    check: Callable[[], object] = lambda: None
    factor: float = 1.0
    figures: Mapping[str, float] | None = None
    scheme: str = ""


def own_quantizer(spec: Scheme) -> Quantizer:
    """x → (codes, scale) by the operator; stochastic schemes take a fixed seed."""

    def run(x: Tensor) -> Codes:
        q = own_result(x, spec)
        return q.codes, q.scale

    return run


def competitors(
    x: Tensor, specs: Sequence[Scheme], ops: Sequence[str], functions: Mapping[str, Quantizer], peers: bool,
    why_not: str | None, skipped: Skipped,
) -> Iterator[Competitor]:  # fmt: skip
    """The two copies first, then what `ops` asks for of each scheme. why_not: the reason for no compiled rows, None:
    there are some. What cannot be timed is entered in `skipped`, with the reason."""
    out = torch.empty_like(x)
    yield Competitor(BASELINE, x.clone, 2 * x.nbytes, "x.clone(): the tensor read once, new memory written once")
    yield Competitor(COPY, lambda: out.copy_(x), 2 * x.nbytes, "out.copy_(x): the same into memory that is there")
    for spec in specs:
        if "quantize" in ops:
            yield from _quantizers(x, spec, why_not, skipped)
            yield from _functions(x, spec, functions, skipped)
            if peers:
                yield from _peers(x, spec, why_not, skipped)
        if "dequantize" in ops:
            yield _dequantizer(x, spec)
        if "pair" in ops:
            yield from _pairs(x, spec)


def _moved(x: Tensor, spec: Scheme) -> float:
    return get_op("quantize").cost(x, str(spec), 0, 0).bytes


def _quantizers(x: Tensor, spec: Scheme, why_not: str | None, skipped: Skipped) -> Iterator[Competitor]:
    """The operator as it is called, and under torch.compile."""
    name, run, moved = str(spec), own_quantizer(spec), _moved(x, spec)
    check_conformance(x, spec, run)
    yield Competitor(name, _call(run, x), moved, "narrowgauge.quantize", _check_of(check_own, x, spec, run),
                     scheme=name)  # fmt: skip
    if why_not is not None:
        skipped[f"{name}, compiled"] = why_not
        return
    fused = torch.compile(own_quantizer(spec), fullgraph=True)
    yield Competitor(f"{name}, compiled", _call(fused, x), moved, "the same under torch.compile; same bits",
                     _check_of(check_compiled, x, spec, fused), scheme=f"{name}, compiled")  # fmt: skip


def _functions(x: Tensor, spec: Scheme, functions: Mapping[str, Quantizer], skipped: Skipped) -> Iterator[Competitor]:
    reason = why_no_function(spec)
    if reason is not None:
        skipped |= {f"{spec} by {name}": reason for name in functions}
        return
    for name, run in functions.items():
        equal = check_function(x, spec, run)
        yield Competitor(f"{spec} by {name}", _call(run, x), _moved(x, spec), "a function of yours",
                         _check_of(check_function, x, spec, run), figures={"codes_equal_percent": equal})  # fmt: skip


def _dequantizer(x: Tensor, spec: Scheme) -> Competitor:
    q = own_result(x, spec)
    moved = get_op("dequantize").cost(q.codes, q.scale, q.outer, str(spec), x.dtype).bytes
    return Competitor(f"dequantize {spec}", q.dequantize, moved, "QuantizedTensor.dequantize",
                      lambda: check_dequantizer(x, spec, lambda other: other.dequantize()))  # fmt: skip


def _pairs(x: Tensor, spec: Scheme) -> Iterator[Competitor]:
    """x and its transpose, in one operator and in two."""
    moved = QUANTIZE_PAIR.cost(x, str(spec), str(spec), 0, 0, 0).bytes
    text, quantize = str(spec), get_op("quantize")

    def by_two(x: Tensor) -> tuple[Tensor, ...]:
        return (*quantize(x, text, 0, 0), *quantize(x.t().contiguous(), text, 0, 0))

    runs = {
        f"pair {text}": (lambda x: QUANTIZE_PAIR(x, text, text, 0, 0, 0), "quantize_pair: x and its transpose"),
        f"pair {text} by two": (by_two, "the same by quantize(x) and quantize(x.t().contiguous())"),
    }
    for name, (run, note) in runs.items():
        yield Competitor(name, _call(run, x), moved, note, _check_of(check_pair, x, spec, run))


def _peers(x: Tensor, spec: Scheme, why_not: str | None, skipped: Skipped) -> Iterator[Competitor]:
    found, reasons = find_peers(x, spec)
    skipped |= {name if reason == ABSENT else f"{spec} by {name}": reason for name, reason in reasons.items()}
    eager = found.get("torch eager")
    if eager is not None and why_not is None:
        found["torch compiled"] = Peer(torch.compile(eager.call, fullgraph=True), eager.result,
                                       "torch, compiled: amax, scale, clamp, cast; x · (max / amax)")  # fmt: skip
    for name, peer in found.items():
        try:
            equal = percent_equal(peer, own_result(x, spec))
        except Exception as error:  # other people's code, of any version
            skipped[f"{spec} by {name}"] = f"fails here: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            continue
        figures = {"codes_equal_percent": equal}
        yield Competitor(
            f"{spec} by {name}", peer.call, _moved(x, spec), peer.note, factor=peer.factor, figures=figures
        )


def _call(run: Callable[[Tensor], Any], x: Tensor) -> Callable[[], object]:
    return lambda: run(x)


def _check_of(check: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    return lambda: check(*arguments)
