"""What a codec does over many steps: whether v forgets, whether stored values drift, whether rounding is unbiased, and
whether a weight decays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from narrowgauge.numerics._arrays import FloatArray, as_float64
from narrowgauge.numerics.check_report import Failure
from narrowgauge.numerics.metrics import nmse, relative_rms
from narrowgauge.numerics.optimizers.contract import Subject
from narrowgauge.numerics.optimizers.data import DATA_SETS, gradient_scales, moments, updates
from narrowgauge.numerics.optimizers.protocol import WeightCodec
from narrowgauge.numerics.statistics import Z_LIMIT

DROP = 0.01
ZERO_SIGMAS = (1.0, 1.5, 2.0)
REENCODINGS = 50
EXACT = 1e-6
"""Relative rms error of float32 storage, which has nothing to round."""
UNBIASED = 1e-3
"""Deviation of the slope from 1 that is no harm."""


def tracking(s: Subject, steps: Mapping[float, int], count: int) -> None:
    """Measures whether v forgets. The gradient's variance drops 100 times on every second element (element scales
    lognormal, σ = 1; averages stationary before); after `steps[beta2]` steps

        tracking ratio = Σ stored v / Σ exact v  over the elements that dropped,

    and the stationary ratio is the same over the others. Rounding to nearest loses changes of v below half a code; for
    β₂ = 0.999 that is most of them, and the ratio of COAT, as of other codecs of 8 bits, about 12.
    """
    for beta2, number in steps.items():
        rng = np.random.default_rng(7)
        scales = gradient_scales("lognormal 1", count, rng)
        warm = round(1.0 / (1.0 - beta2))
        m, stored = np.zeros(count), np.square(scales)
        exact = stored
        for step, (squares, now) in enumerate(updates(scales, beta2, warm, number, DROP, rng)):
            stored = s.through(m, beta2 * stored + (1.0 - beta2) * squares, step)[1]
            exact = now
        for name, part in (("tracking", slice(0, None, 2)), ("stationary", slice(1, None, 2))):
            ratio = float(np.sum(stored[part]) / np.sum(exact[part]))
            s.measurements[f"{name} ratio, beta2 {beta2:g}"] = ratio


def tracking_failures(s: Subject, must: tuple[float, ...], limit: float) -> Iterator[Failure]:
    """Tracking ratios beyond the limit, in either direction, for the betas that must keep it."""
    for beta2 in must:
        ratio = s.measurements[f"tracking ratio, beta2 {beta2:g}"]
        if not 1.0 / limit <= ratio <= limit:
            kind = "v does not forget" if ratio > limit else "v forgets too much"
            detail = f"beta2 {beta2:g}: stored v is {ratio:.4g} times the exact one, limit {limit:g}"
            yield Failure("tracking", detail, kind, {"beta2": beta2, "ratio": ratio})


def precision(s: Subject, count: int, most_zero: float) -> Iterator[Failure]:
    """NMSE of m/√v on each data set, and the share of v that reads back as 0."""
    for name in DATA_SETS:
        m, v = s.ordinary(count, name)
        got_m, got_v = s.through(m, v)
        with np.errstate(divide="ignore", invalid="ignore"):
            update = got_m / np.sqrt(got_v)
        # Where v is 0 the update is infinite, or NaN: such a codec has no NMSE.
        s.measurements[f"nmse of m/sqrt(v), {name}"] = nmse(update, m / np.sqrt(v))
    for sigma in ZERO_SIGMAS:
        m, v = moments(gradient_scales(f"lognormal {sigma:g}", count, s.rng), s.betas, s.rng)
        got = s.through(m, v)[1]
        share = float(np.mean(got == 0.0))
        s.measurements[f"share of v = 0, lognormal {sigma:g}"] = share
        if share > most_zero:
            at = int(np.argmax(got == 0.0))
            detail = (
                f"lognormal {sigma:g}: {share:.3%} of v reads back as 0, for instance {v[at]:.6g} (rms {_rms(v):.3g})"
            )
            yield Failure("zero v", f"{detail}; m / (sqrt(v) + eps) explodes there", "v truncated to zero")
            return


def _rms(x: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def drift(s: Subject, count: int, limit: float) -> Iterator[Failure]:
    """Stored, read and stored again without a change: how far values wander (deterministic codecs); `limit` is for the
    change of the sum of all magnitudes."""
    m, v = s.ordinary(count, "lognormal 1")
    first = s.through(m, v)
    now = first
    for seed in range(REENCODINGS):
        now = s.through(*now, seed)
    for name, start, end in zip(("m", "v"), first, now, strict=True):
        kept = start != 0.0
        worst = float(np.max(np.abs(end[kept] / start[kept] - 1.0), initial=0.0))
        total = float(np.sum(np.abs(end)) / np.sum(np.abs(start))) - 1.0
        s.measurements[f"re-encoding drift of {name}, largest"] = worst
        s.measurements[f"re-encoding drift of {name}, sum"] = abs(total)
        if not abs(total) <= limit:
            detail = f"{REENCODINGS} times stored without a change, {name} is {1.0 + total:.4g} times what it was"
            yield Failure("re-encoding", detail, "drifts under re-encoding")


def unbiased(s: Subject, count: int, seeds: int, writes: int) -> Iterator[Failure]:
    """Stochastic codecs: the slope <x, mean of x̂> / <x, x> of one write over many seeds, and of `writes` writes with a
    decay of 0.1 % each. Both have to be 1, within chance, for the moments that are rounded stochastically."""
    m, v = s.ordinary(count, "lognormal 1")
    exact = {"m": m, "v": v}
    claimed = tuple(getattr(s.codec, "unbiased", exact))
    one: dict[str, list[float]] = {"m": [], "v": []}
    many: dict[str, list[float]] = {"m": [], "v": []}
    keep = 1.0 - 1e-3
    for name, first, second in zip(("m", "v"), s.through(m, v, 1), s.through(m, v, 2), strict=True):
        if name in claimed and np.array_equal(first, second) and relative_rms(first, exact[name]) > EXACT:
            yield Failure("unbiased", f"{name} is rounded, and the same under two seeds", "seed without effect")
            return
    for seed in range(seeds):
        got = dict(zip(("m", "v"), s.through(m, v, seed), strict=True))
        for name, x in exact.items():
            one[name].append(_slope(got[name], x))
    for seed in range(max(8, seeds // 8)):
        now = m, v
        for write in range(writes):
            now = s.through(keep * now[0], keep * now[1], 1000 * (seed + 1) + write)
        for name, end in zip(("m", "v"), now, strict=True):
            many[name].append(_slope(end, keep**writes * exact[name]))
    for title, slopes in (("one write", one), (f"{writes} writes", many)):
        for name, values in slopes.items():
            mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
            s.measurements[f"slope of {name}, {title}"] = mean
            if name in claimed and not abs(mean - 1.0) <= UNBIASED + Z_LIMIT * error:
                detail = f"{title}: the slope of {name} is {mean:.5f} ± {error:.5f} over {len(values)} seeds, not 1"
                yield Failure("unbiased", detail, "biased stochastic rounding", {"slope": mean, "error": error})


def _slope(got: FloatArray, exact: FloatArray) -> float:
    return float(np.dot(got, exact) / np.dot(exact, exact))


def decay(
    codec: WeightCodec, rates: tuple[float, ...], steps: int, count: int, tolerance: float, seed: int,
    measured: dict[str, float],
) -> Iterator[Failure]:  # fmt: skip
    """Weights that do nothing but decay, w ← (1 - lr · wd) w, stored after every step (start: 1 to 2 in magnitude).

        realised share = log(Σ w_n · w_0 / Σ w_0²) / (n · log(1 - lr · wd))

    is 1 for exact weights and 0 where rounding undoes every step (bfloat16 to nearest). It is taken for all weights and
    for eighths of the binade, because what a step loses at 1 it may gain at 2; `tolerance`, and chance, is how far from
    1 it may be. The spread of w_n / w_0 is measured as well; figures go to `measured`.
    """
    rng = np.random.default_rng(seed)
    start = (np.sort(rng.uniform(1.0, 2.0, count)) * rng.choice((-1.0, 1.0), count)).astype(np.float32).astype(float)
    for rate in rates:
        w = start
        for step in range(steps):
            state = codec.store_weight(((1.0 - rate) * w).astype(np.float32), step)
            w = as_float64(codec.load_weight(state), "load_weight")
        span = -steps * float(np.log1p(-rate))
        parts = [(_share(a, b, span), a) for a, b in zip(np.array_split(start, 8), np.array_split(w, 8), strict=True)]
        chance = Z_LIMIT * float(np.std(w / start)) / np.sqrt(count / 8) / span
        worst, where = max(parts, key=lambda part: abs(part[0] - 1.0) if np.isfinite(part[0]) else np.inf)
        measured[f"decay realised, lr·wd {rate:g}"] = _share(start, w, span)
        measured[f"decay realised where worst, lr·wd {rate:g}"] = worst
        measured[f"decay spread, lr·wd {rate:g}"] = float(np.std(w / start))
        if not abs(worst - 1.0) <= tolerance + chance:
            kind = "decay lost" if worst < 1.0 else "decay too strong" if worst > 1.0 else "weight not finite"
            detail = (
                f"lr·wd = {rate:g}, {steps} steps: of weights from {abs(where[0]):.3g} to {abs(where[-1]):.3g} "
                f"{worst:.1%} of the decay is realised, of all {_share(start, w, span):.1%}"
            )
            yield Failure("weight decay", detail, kind, {"rate": rate, "share": worst})


def _share(start: FloatArray, end: FloatArray, span: float) -> float:
    """Share of a decay by e^-span that a set of weights shows."""
    slope = _slope(end, start)
    return float(-np.log(slope) / span) if slope > 0.0 else float("nan")
