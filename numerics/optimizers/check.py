"""`check_optimizer`: a codec of optimizer states, or of weights, against what training needs of it.

Failures are of two kinds. Hard ones have no limit to set: wrong shapes, signs, negative or vanished v, lost zeros,
groups that depend on each other, a NaN that leaves its group or hides, other bytes than the codec says, a stochastic
rounding that is biased. Quality is measured, and fails only where the caller sets a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from narrowgauge.numerics.check_report import CheckReport, Failure
from narrowgauge.numerics.optimizers.contract import CONTRACT, Subject, is_stochastic
from narrowgauge.numerics.optimizers.dynamics import decay, drift, precision, tracking, tracking_failures, unbiased
from narrowgauge.numerics.optimizers.protocol import StateCodec, WeightCodec, resolve_codec

TRACKING: Mapping[float, int] = MappingProxyType({0.95: 200, 0.99: 600, 0.999: 3000})
"""Steps after the drop, by β₂: 10, 6 and 3 time constants."""
DECAY_RATES = (3e-5, 1e-5, 3e-6)
DEFAULT_GROUP = 2048
"""Elements that may share scales where a codec does not say: the longest published group."""
OTHER_CHECKS = ("zero v", "re-encoding", "unbiased", "tracking", "limits", "weight decay")


def check_optimizer(
    codec: Any,
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    group: int | None = None,
    tracking_steps: Mapping[float, int] = TRACKING,
    must_track_beta2: Iterable[float] = (),
    tracking_limit: float = 1.1,
    max_zero_share: float = 0.0,
    max_drift: float = 0.2,
    decay_tolerance: float = 0.1,
    decay_rates: Iterable[float] = DECAY_RATES,
    decay_steps: int = 2000,
    limits: Mapping[str, float] | None = None,
    elements: int = 1 << 15,
    tracked_elements: int = 2048,
    seeds: int = 64,
    writes: int = 200,
    skip: Collection[str] = (),
    seed: int = 0,
    subject: str | None = None,
) -> CheckReport:
    """Checks how m, v (and weights) come through storage, once and over many steps.

    codec: a `StateCodec`, a `WeightCodec` or both (see `optimizers.protocol`), or a `state` option of
    `narrowgauge.optim`, which has to be imported already.
    betas: of the moments that the data sets have. group: elements of the flattened tensor that share scales (default:
    `codec.group`, else 2048).
    tracking_steps: β₂ → steps after the gradient's variance drops 100 times. Σ stored v / Σ exact v is measured for
    each; only for `must_track_beta2` it has to be within 1 / tracking_limit and tracking_limit. Nearest rounding cannot
    for β₂ = 0.999 (COAT: 12), which is a property of such codecs and not a fault of their code.
    max_zero_share: share of positive v that may read back as 0 (lognormal element scales, σ = 1, 1.5, 2).
    max_drift: how much the sum of magnitudes may change in 50 rounds of storing and reading alone, if rounding is to
    nearest (bitsandbytes' signed map, which has +1 but not -1: 0.14; other named codecs: below 1e-3).
    decay_tolerance: how far the realised share of a weight decay may be from 1, for `decay_rates` = lr · wd over
    `decay_steps` steps. limits: measurement → largest accepted value. elements … writes: sizes. skip: checks left out.

    Returns a report. ValueError and TypeError for a codec of neither form and for unknown names in `limits` and `skip`.
    """
    chosen = resolve_codec(codec)
    must = tuple(must_track_beta2)
    length = _checked_group(chosen, group, must, tracking_steps, skip)
    checks: list[str] = []
    failures: list[Failure] = []
    measurements: dict[str, float] = {}
    if isinstance(chosen, StateCodec):
        state = Subject(chosen, length, bool(getattr(chosen, "stochastic", False)), betas, np.random.default_rng(seed))
        sizes = _Sizes(tracking_steps, tracked_elements, elements, seeds, writes)
        checks += _state_checks(state, sizes, must, _Most(tracking_limit, max_zero_share, max_drift), skip, failures)
        measurements |= state.measurements
    if isinstance(chosen, WeightCodec) and "weight decay" not in skip:
        checks.append("weight decay")
        run = partial(
            decay, chosen, tuple(decay_rates), decay_steps, elements // 8, decay_tolerance, seed, measurements
        )
        failures += _guarded("weight decay", run)
    if limits:
        checks.append("limits")
        failures += _beyond(limits, measurements)
    name = subject or str(getattr(chosen, "name", type(chosen).__name__))
    return CheckReport(name, tuple(checks), tuple(failures), measurements)


def _checked_group(
    codec: object, group: int | None, must: tuple[float, ...], steps: Mapping[float, int], skip: Collection[str]
) -> int:
    """Elements of a group, after a look at the other arguments; ValueError names what is accepted."""
    names = (*CONTRACT, *OTHER_CHECKS)
    if set(skip) - set(names):
        raise ValueError(f"skip: got {sorted(set(skip) - set(names))}, accepted: {', '.join(names)}")
    if must and "tracking" in skip:
        raise ValueError(f"must_track_beta2: got {must} while 'tracking' is skipped, accepted: one of the two")
    if not set(must) <= set(steps):
        raise ValueError(f"must_track_beta2: got {must}, accepted: betas of tracking_steps, {tuple(steps)}")
    length = group if group is not None else int(getattr(codec, "group", DEFAULT_GROUP))
    if length < 1:
        raise ValueError(f"group: got {length}, accepted: a number of elements >= 1")
    return length


class _Sizes(NamedTuple):
    """How much of each dynamic check runs."""

    steps: Mapping[float, int]
    tracked: int
    elements: int
    seeds: int
    writes: int


class _Most(NamedTuple):
    """The limits that have defaults."""

    tracking: float
    zero_share: float
    drift: float


def _state_checks(
    state: Subject, sizes: _Sizes, must: tuple[float, ...], most: _Most, skip: Collection[str],
    failures: list[Failure],
) -> list[str]:  # fmt: skip
    """Runs the checks of moments; returns their names."""

    def tracked() -> list[Failure]:
        tracking(state, sizes.steps, sizes.tracked)
        return list(tracking_failures(state, must, most.tracking))

    def seeded() -> list[Failure]:
        state.stochastic = is_stochastic(state.codec, np.random.default_rng(0))
        return []

    failures += _guarded("call", seeded)
    steps: dict[str, Callable[[], Iterable[Failure]]] = {
        name: partial(check, state) for name, check in CONTRACT.items()
    }
    steps["zero v"] = partial(precision, state, sizes.elements, most.zero_share)
    if state.stochastic:
        steps["unbiased"] = partial(unbiased, state, sizes.elements // 8, sizes.seeds, sizes.writes)
    else:
        steps["re-encoding"] = partial(drift, state, sizes.elements, most.drift)
    if sizes.steps:
        steps["tracking"] = tracked
    ran = [name for name in steps if name not in skip]
    for name in ran:
        failures += _guarded(name, steps[name])
    return ["call", *ran]


def _guarded(check: str, run: Callable[[], Iterable[Failure]]) -> list[Failure]:
    """What a check finds; an exception of the codec is a failure, after those found before it."""
    found: list[Failure] = []
    try:
        found.extend(run())
    except Exception as error:  # anything that a stranger's codec may raise
        found.append(Failure(check, str(error)[:200], f"raised {type(error).__name__}"))
    return found


def _beyond(limits: Mapping[str, float], measurements: Mapping[str, float]) -> list[Failure]:
    unknown = sorted(set(limits) - set(measurements))
    if unknown:
        raise ValueError(f"limits: got {unknown}, accepted: {', '.join(measurements)}")
    return [
        Failure("limits", f"{name} is {measurements[name]:.4g}, limit {limit:g}", "limit exceeded", {"name": name})
        for name, limit in limits.items()
        if not measurements[name] <= limit
    ]
