"""What the runs of the suite `recipes` say: gaps to fp32 (`training_gaps`), limits, verdicts, and the JSON file.

Limits: 1 % for recipes of 8 bits and more, 5 % for fewer; the narrowest quantised operand counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

import numpy as np

from narrowgauge.bench.recipes import Columns
from narrowgauge.bench.recipes_run import BF16, CHANCE, RecipeResult, RecipeSettings
from narrowgauge.bench.training_gaps import Gaps, document, is_further_than_its_error, paired_gaps, root_mean_square
from narrowgauge.bench.training_run import BASELINE
from narrowgauge.formats.operand import base_scheme
from narrowgauge.nn import Recipe
from narrowgauge.nn.maps import parse_map
from narrowgauge.nn.maps.learned_step import LearnedStep
from narrowgauge.train import ByteCorpus

LIMIT_PERCENT, NARROW_LIMIT_PERCENT = 1.0, 5.0
WIDE_BITS = 8

Results = Sequence[RecipeResult]


@dataclass(frozen=True, kw_only=True)
class Comparison(Gaps):
    """One recipe, over the seeds for which it and fp32 are finished.

    bits: of each quantised slot. limit_percent: None for baselines. verdict: "baseline", "chance alone", "within 1 %",
    "above 1 %" or "diverged" (a gap below zero is within). is_clear: the mean gap is further from the limit than its
    standard error. why: of one that is not within, else "". sqnr_db: slot → mean over seeds. step_ratio: median step
    time over fp32's, mean over the seeds.
    """

    recipe: str
    bits: Mapping[str, int]
    limit_percent: float | None
    verdict: str
    is_clear: bool
    why: str
    source: str
    advice: str
    definition: str
    sqnr_db: Mapping[str, float]
    step_ms: float
    step_ratio: float


def slot_bits(recipe: Recipe | None) -> dict[str, int]:
    """Bits of the element format of each quantised slot, and of the weights' grid where there is one ("update").

    A map that quantises, with a learned step, counts for the slots of what it maps.
    """
    if recipe is None:
        return {}
    bits: dict[str, int] = {}
    for text, letter in ((recipe.weight_map, "w"), (recipe.input_map, "x")):
        made = None if text is None else parse_map(text)
        if isinstance(made, LearnedStep):
            bits |= {slot: made.bits for slot in recipe.slots if slot.startswith(letter)}
    schemes = {slot: s for slot, s in {**recipe.slots, "update": recipe.update}.items() if s is not None}
    return bits | {slot: base_scheme(s).element.bits for slot, s in schemes.items()}


def limit_of(name: str, bits: Mapping[str, int]) -> float | None:
    """The gap in percent within which a recipe of these bits should stay; None for baselines."""
    if name in (BASELINE, BF16, *CHANCE):
        return None
    return LIMIT_PERCENT if min(bits.values(), default=WIDE_BITS) >= WIDE_BITS else NARROW_LIMIT_PERCENT


def compare(results: Results, columns: Columns) -> list[Comparison]:
    """A comparison for each column that has a seed in common with fp32, in the order of `columns`."""
    base = {r.run.seed: r for r in results if r.run.recipe == BASELINE}
    found = []
    for name, recipe in columns.items():
        own = [r for r in results if r.run.recipe == name and r.run.seed in base]
        if own:
            found.append(_comparison(name, recipe, own, base))
    return found


def _comparison(name: str, recipe: Recipe | None, own: Results, base: Mapping[int, RecipeResult]) -> Comparison:
    gaps = paired_gaps(own, {seed: r.final_loss for seed, r in base.items()})
    bits = slot_bits(recipe)
    limit = limit_of(name, bits)
    sqnr = _means([r.sqnr_db for r in own])
    verdict, outside = _verdict(name, gaps.mean_gap_percent, limit)
    return Comparison(
        **vars(gaps),
        recipe=name,
        bits=bits,
        limit_percent=limit,
        verdict=verdict,
        is_clear=limit is not None and is_further_than_its_error(gaps, limit),
        why=_why(recipe, own, sqnr) if outside else "",
        source="" if recipe is None else recipe.source,
        advice="" if recipe is None else recipe.advice,
        definition=own[0].run.definition,
        sqnr_db=sqnr,
        step_ms=fmean(r.step_ms for r in own),
        step_ratio=fmean(r.step_ms / base[r.run.seed].step_ms for r in own),
    )


def _verdict(name: str, mean: float | None, limit: float | None) -> tuple[str, bool]:
    """The verdict, and whether it is in need of a reason."""
    if mean is None:
        return "diverged", True
    if limit is None:
        return "chance alone" if name in CHANCE else "baseline", False
    return (f"within {limit:g} %", False) if mean <= limit else (f"above {limit:g} %", True)


def _why(recipe: Recipe | None, own: Results, sqnr: Mapping[str, float]) -> str:
    """What is known: where it diverged, what the recipe says of itself, its noisiest operand, and what the method has
    beside the recipe, which this suite leaves out."""
    reasons = [f"seed {r.run.seed}: {r.note}" for r in own if r.note]
    if recipe is not None and recipe.caveat:
        reasons.append(recipe.caveat)
    if sqnr:
        slot = min(sqnr, key=lambda slot: sqnr[slot])
        reasons.append(f"noisiest operand: {slot}, {sqnr[slot]:.1f} dB")
    if recipe is not None and recipe.advice:
        reasons.append(f"not done here: {recipe.advice}")
    return "; ".join(reasons)


def _means(tables: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """By slot the mean over runs. An operand that loses nothing, infinite there and null in a file, is left out."""
    seen: dict[str, list[float]] = {}
    for table in tables:
        for slot, value in table.items():
            if value is not None and isfinite(value):
                seen.setdefault(slot, []).append(value)
    return {slot: fmean(values) for slot, values in seen.items()}


def noise_floor(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Twin of fp32 → root mean square, over the seeds, of the gap between them, in percent."""
    noise = {c.recipe: root_mean_square(c.gaps_percent) for c in comparisons if c.recipe in CHANCE}
    return {name: value for name, value in noise.items() if value is not None}


def by_gap(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Baselines first, then from the smallest gap to the largest, what diverged last."""

    def key(c: Comparison) -> tuple[bool, bool, float]:
        is_baseline = c.limit_percent is None
        return not is_baseline, c.mean_gap_percent is None, 0.0 if is_baseline else c.mean_gap_percent or 0.0

    return sorted(comparisons, key=key)


def unigram_loss(corpus: ByteCorpus) -> float:
    """Cross-entropy of the validation part under the training part's byte frequencies (plus one each), nats per byte:
    what a model knows that does not read."""
    seen = np.bincount(corpus.train, minlength=256) + 1.0
    counts = np.bincount(corpus.validation_bytes, minlength=256)
    return float(-(counts * np.log(seen / seen.sum())).sum() / counts.sum())


def report(
    results: Results, pending: int, settings: RecipeSettings, columns: Columns, failed: Mapping[str, str]
) -> dict[str, Any]:
    """Everything, for JSON: settings, comparisons, the noise, each run with its curves, machines.

    failed: run → why it raised.
    """
    comparisons = compare(results, columns)
    verdicts = {
        "limits_percent": {"8 bits and more": LIMIT_PERCENT, "fewer": NARROW_LIMIT_PERCENT},
        "unigram_loss": unigram_loss(ByteCorpus(settings.data)),
        "noise_floor_percent": noise_floor(comparisons),
        "comparisons": by_gap(comparisons),
        "failed": failed,
    }
    return document("recipes", settings, results, pending, verdicts)
