"""Diagnosis: which known fault returns what the function under test returned.

Every fault of the library is a model: it computes what a quantizer with that fault alone returns. The models run on the
inputs of the calls that failed (and of some that did not, which a right explanation must not contradict), and the one
that reproduces most of the wrong outputs gives the fault its name. What it leaves unexplained may have a second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.quantizers.call import Observation
from narrowgauge.numerics.quantizers.element_faults import ELEMENT_FAULTS
from narrowgauge.numerics.quantizers.grid import has_negative_zero, per_element
from narrowgauge.numerics.quantizers.models import Fault, Setting, quantised
from narrowgauge.numerics.quantizers.scale_faults import SCALE_FAULTS
from narrowgauge.numerics.quantizers.terms import SCALE_TOLERANCE, BoolArray, Terms

FAULTS: tuple[Fault, ...] = (*ELEMENT_FAULTS, *SCALE_FAULTS)
"""In order of preference where several explain the same."""
FAILED_ELEMENTS, PASSED_ELEMENTS = 20_000, 5_000
"""How much of the failed and of the passed calls is modelled."""
ENOUGH = 0.5
"""Share of the wrong outputs that an explanation has to reproduce."""


@dataclass(frozen=True)
class Diagnosis:
    """kind: the fault's name, None where none fits. explained of wrong: outputs that the model reproduces;
    contradicted: outputs of other elements that it does not. properties: those in which it explains something."""

    kind: str | None
    explained: int
    wrong: int
    contradicted: int
    properties: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind is None:
            return "looks like none of the known faults"
        certain = self.explained == self.wrong and self.contradicted == 0
        against = f", against it: {self.contradicted} others" if self.contradicted else ""
        verb = "looks like" if certain or self.explained >= 0.9 * self.wrong else "in part looks like"
        return f"{verb}: {self.kind} (reproduces {self.explained} of {self.wrong} wrong outputs{against})"


@dataclass(frozen=True, eq=False)
class _Evidence:
    """One call, flat: what came, what was expected, which elements are wrong, which may be compared at all."""

    property: str
    setting: Setting
    actual: FloatArray
    expected: FloatArray
    wrong: BoolArray
    compared: BoolArray
    tolerance: float
    zero_signs: bool


def diagnose(terms: Terms, observations: Sequence[Observation]) -> tuple[Diagnosis, ...]:
    """The explanations of what is wrong in these calls, the one that explains most first; none if nothing is wrong.
    Where no fault of the library explains half of it, one `Diagnosis` without a kind."""
    evidence = [_evidence(terms, seen) for seen in _chosen(observations)]
    remaining = [piece.wrong for piece in evidence]
    total = sum(int(mask.sum()) for mask in remaining)
    if total == 0:
        return ()
    with np.errstate(all="ignore"):
        # What the definition itself returns is no evidence of a fault in it.
        sound = _reproduced(Fault("none", quantised), evidence)
        remaining = [mask & ~agrees for mask, (agrees, _) in zip(remaining, sound, strict=True)]
        models = [(fault, _reproduced(fault, evidence)) for fault in _candidates(evidence, remaining)]
    found: list[Diagnosis] = []
    while sum(int(mask.sum()) for mask in remaining):
        best = _best(models, evidence, remaining)
        if best is None:
            break
        diagnosis, masks = best
        found.append(diagnosis)
        remaining = [mask & ~explained for mask, explained in zip(remaining, masks, strict=True)]
    return tuple(found) if found else (Diagnosis(None, 0, total, 0),)


def _candidates(evidence: Sequence[_Evidence], remaining: Sequence[BoolArray]) -> list[Fault]:
    """The faults that reproduce half of the smallest failed call of some property: what is worth a closer look."""
    first: dict[str, int] = {}
    for index, mask in enumerate(remaining):
        if mask.any():
            first.setdefault(evidence[index].property, index)
    pieces = [evidence[index] for index in first.values()]
    masks = [remaining[index] for index in first.values()]
    return [
        fault
        for fault in FAULTS
        if any(
            np.count_nonzero(mask & agrees) >= ENOUGH * np.count_nonzero(mask)
            for mask, (agrees, _) in zip(masks, _reproduced(fault, pieces), strict=True)
        )
    ]


def _chosen(observations: Sequence[Observation]) -> list[Observation]:
    """Failed calls, then passed ones: of every property some, small ones first, as many as fit (one at least)."""
    chosen: list[Observation] = []
    for is_ok, room, most in ((False, FAILED_ELEMENTS, 6), (True, PASSED_ELEMENTS, 2)):
        group = [seen for seen in observations if seen.verdict.ok is is_ok]
        group = [seen for name in dict.fromkeys(s.property for s in group) for seen in _some(group, name, most)]
        for seen in sorted(group, key=lambda seen: seen.x.size):
            if seen.x.size > room and (chosen or is_ok):
                break
            chosen.append(seen)
            room -= seen.x.size
    return chosen


def _some(group: Sequence[Observation], name: str, most: int) -> list[Observation]:
    """At most so many calls of a property, spread evenly over it."""
    own = [seen for seen in group if seen.property == name]
    return own if len(own) <= most else [own[i * len(own) // most] for i in range(most)]


def _evidence(terms: Terms, seen: Observation) -> _Evidence:
    verdict, reading = seen.verdict, seen.reading
    shape = (seen.x.shape[0], seen.x.shape[1])
    in_wrong_group = per_element(verdict.wrong_scales.astype(np.float64), terms.scheme, shape) > 0
    wrong = verdict.is_wrong | (in_wrong_group & ((seen.x != 0) | np.isnan(reading.values)))
    # NaN either way: only codes or scales differ, which models of values do not tell apart.
    wrong &= ~(np.isnan(reading.values) & np.isnan(verdict.expected))
    # A wrong scale need not be a power of two even where the right one is.
    tolerance = (0.0 if terms.is_cast else SCALE_TOLERANCE) + (
        reading.unit_roundoff if reading.unit_roundoff > 2.0**-24 else 0.0
    )
    before = None if seen.before is None else seen.before.astype(np.float64)
    setting = Setting(terms, seen.x.astype(np.float64), before, seen.x.dtype == np.float64)
    return _Evidence(
        seen.property,
        setting,
        reading.values,
        verdict.expected,
        wrong,
        # What becomes of NaN and infinities in groups that have any is not for models of other faults to say.
        (verdict.judged & (terms.is_cast | np.isfinite(seen.x))) | wrong,
        tolerance,
        has_negative_zero(terms.scheme.element),
    )


def _agrees(found: FloatArray, other: FloatArray, piece: _Evidence) -> BoolArray:
    close = np.abs(found - other) <= np.abs(found) * piece.tolerance
    same_zero = (found != 0) | (other != 0) | (np.signbit(found) == np.signbit(other)) | (not piece.zero_signs)
    with np.errstate(over="ignore"):  # what float32 made infinite
        overflow = (np.abs(found) > float(np.finfo(np.float32).max)) & (other == np.copysign(np.inf, found))
    return np.where(np.isnan(found), np.isnan(other), ((found == other) | close | overflow) & same_zero)


def _reproduced(fault: Fault, evidence: Sequence[_Evidence]) -> list[tuple[BoolArray, BoolArray]]:
    """Of each call: which outputs the model gives, and which right outputs it denies."""
    result = []
    for piece in evidence:
        found = fault.model(piece.setting)
        if found is None:
            # The fault cannot show in this call (a format or shape without it): nothing explained, nothing denied.
            nothing = np.zeros(piece.wrong.shape, dtype=np.bool_)
            result.append((nothing, nothing))
            continue
        agrees = _agrees(found, piece.actual, piece) & piece.compared
        denied = piece.compared & ~piece.wrong & ~agrees & ~_agrees(found, piece.expected, piece)
        result.append((agrees, denied))
    return result


def _best(
    models: Sequence[tuple[Fault, list[tuple[BoolArray, BoolArray]]]],
    evidence: Sequence[_Evidence],
    remaining: Sequence[BoolArray],
) -> tuple[Diagnosis, list[BoolArray]] | None:
    """The explanation with the most wrong outputs reproduced, less those that it contradicts."""
    total = sum(int(mask.sum()) for mask in remaining)
    best: tuple[float, Diagnosis, list[BoolArray]] | None = None
    for fault, masks in models:
        explained = sum(int((mask & agrees).sum()) for mask, (agrees, _) in zip(remaining, masks, strict=True))
        denied = sum(int(denies.sum()) for _, denies in masks)
        score = explained - denied
        if explained >= ENOUGH * total and score > 0 and (best is None or score > best[0]):
            where = [
                piece.property
                for piece, mask, (agrees, _) in zip(evidence, remaining, masks, strict=True)
                if (mask & agrees).any()
            ]
            diagnosis = Diagnosis(fault.kind, explained, total, denied, tuple(dict.fromkeys(where)))
            best = (score, diagnosis, [agrees for agrees, _ in masks])
    return None if best is None else (best[1], best[2])
