"""`sweep`: formats × granularities × tensors, each pair quantised and compared with what it was.

>>> from narrowgauge.numerics import sweep
>>> result = sweep(["normal", "gg0.5"], ["e4m3fn", "int8", "nvfp4"])  # doctest: +SKIP
>>> print(result)  # doctest: +SKIP
>>> result.html("formats.html")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from narrowgauge.formats import BlockFormat, Scheme, get, parse
from narrowgauge.formats.registry import AnyFormat
from narrowgauge.formats.tiles import tile_from_text
from narrowgauge.numerics.sweeps.measure import (
    Quantize,
    describe,
    measure,
    metric_names,
    quantize_exactly,
    summarize,
)
from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.rows import TARGET_DB, Skipped, SweepRow, TensorSummary
from narrowgauge.numerics.tensors.named import SAMPLE, NamedTensor, TensorSource, sampled
from narrowgauge.numerics.tensors.sources import as_source

Progress: TypeAlias = Callable[[int, int, str], None]
"""progress(done, total, what is next)."""

DEFAULT_SCHEMES = (
    "bf16",
    "e4m3fn",
    "e4m3fn/row",
    "e4m3fn/1x128",
    "e5m2",
    "int8/row",
    "int8/1x128",
    "mxfp8",
    "mxfp6",
    "int4/1x32",
    "nvfp4",
    "mxfp4",
)
"""What is compared where a caller names no scheme."""
NAMED = 3
"""Tensors that were left out for one reason of which the names are told."""


def sweep(
    tensors: object,
    schemes: Iterable[str | Scheme] | None = None,
    *,
    formats: Iterable[str] | None = None,
    granularities: Iterable[str] | None = None,
    quantize: Quantize = quantize_exactly,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    sample: int | None = None,
    target_db: float = TARGET_DB,
    title: str = "Number formats compared",
    progress: Progress | None = None,
) -> SweepResult:
    """Every tensor under every scheme.

    tensors: what `as_source` takes: distribution names, a mapping of names to arrays or torch tensors,
    `from_distributions`, `from_checkpoint`, `from_model`, or `NamedTensor`s. Read once, one at a time.
    schemes: texts as "e4m3fn/1x128:pow2"; besides, or in place of them, every one of `formats` at every one of
    `granularities` (without which: per tensor). Block formats, which bring their own granularity, come in
    once. Combinations that cannot be are in `skipped` of the result, with the reason, as are those that a
    tensor or `quantize` refuses. Without any of the three: `DEFAULT_SCHEMES`.
    quantize: see `Quantize`; by default the exact numpy reference. seed: given to `quantize`, for `+sr`.
    metrics: names of `compare`'s that rows keep besides `ALWAYS` (None: all).
    sample: at most so many elements of each tensor, in whole rows (None: what the source gives, and of plain
    arrays `SAMPLE`). target_db: see `SweepResult.cheapest`. progress: called before each measurement and at
    the end.

    Raises ValueError for unknown formats, granularities and metrics, where no scheme or no measurement is
    left; TypeError for tensors or a `quantize` that gives what is not accepted.
    """
    specs, skipped = combine(schemes, formats, granularities)
    kept = metric_names(metrics)
    source = as_source(tensors, limit=SAMPLE if sample is None else sample)
    skipped += _left_out(source)
    rows: list[SweepRow] = []
    summaries: list[TensorSummary] = []
    total, done = len(source) * len(specs), 0
    for tensor in source:
        if sample is not None and tensor.values.size > sample:
            tensor = _sampled_again(tensor, sample)
        summaries.append(summarize(tensor))
        for spec in specs:
            if progress is not None:
                progress(done, total, f"{tensor.info.name} in {spec}")
            done += 1
            measured = measure(tensor, spec, quantize, seed, kept)
            if isinstance(measured, SweepRow):
                rows.append(measured)
            else:
                skipped.append(measured)
    if progress is not None:
        progress(total, total, "")
    if not rows:
        reasons = "; ".join(sorted({entry.reason for entry in skipped})[:3]) or "there is no tensor"
        raise ValueError(f"tensors: nothing could be measured: {reasons}")
    return SweepResult(
        rows=tuple(rows),
        tensors=tuple(summaries),
        schemes=tuple(describe(spec) for spec in specs),
        skipped=tuple(skipped),
        seed=seed,
        target_db=target_db,
        title=title,
    )


def _left_out(source: TensorSource) -> list[Skipped]:
    """One entry for each reason: a checkpoint has hundreds of vectors."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in source.left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        Skipped("every scheme", reason, ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else ""))
        for reason, names in by_reason.items()
        for more in [len(names) - NAMED]
    ]


def combine(
    schemes: Iterable[str | Scheme] | None,
    formats: Iterable[str] | None = None,
    granularities: Iterable[str] | None = None,
) -> tuple[list[Scheme], list[Skipped]]:
    """The schemes that can be, each once, and those that cannot, with the reason. See `sweep`.

    ValueError for an unknown format or granularity, for granularities without formats, and where no scheme is
    left.
    """
    if isinstance(schemes, str | Scheme):
        schemes = [schemes]
    if granularities is not None and formats is None:
        raise ValueError("granularities: got them without formats, accepted: together with formats=")
    wanted: list[str | Scheme] = list(schemes or ())
    if formats is not None:
        wanted += _product(list(formats), ["tensor"] if granularities is None else list(granularities))
    elif schemes is None:
        wanted = list(DEFAULT_SCHEMES)
    found: dict[Scheme, None] = {}
    skipped = []
    for text in wanted:
        if isinstance(text, str):
            get(text.strip().split("/")[0].split(":")[0].split("+")[0])  # a wrong name is a mistake, no combination
        try:
            found[parse(text)] = None
        except ValueError as error:
            skipped.append(Skipped(str(text), str(error)))
    if not found:
        reasons = "; ".join(entry.reason for entry in skipped) or "none is named"
        raise ValueError(f"schemes: none is left to measure: {reasons}")
    return list(found), skipped


def _product(formats: Sequence[str], granularities: Sequence[str]) -> Iterator[str]:
    for granularity in granularities:
        tile_from_text(granularity)
    for name in formats:
        fmt: AnyFormat = get(name)
        if isinstance(fmt, BlockFormat):
            yield fmt.name
        for granularity in granularities:
            if not isinstance(fmt, BlockFormat) or granularity != fmt.granularity:
                yield f"{fmt.name}/{granularity}"


def _sampled_again(tensor: NamedTensor, limit: int) -> NamedTensor:
    part = sampled(tensor.values, replace(tensor.info, shape=tensor.values.shape), limit)
    text = part.info.sample if not tensor.info.sample else f"{part.info.sample} of {tensor.info.sample}"
    return NamedTensor(replace(tensor.info, sample=text), part.values)
