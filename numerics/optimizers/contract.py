"""What every codec of optimizer states has to keep, whatever its precision: signs, zeros, groups, shapes, its own word.

Each check is a function of a `Subject`; it yields failures. The cases of constant groups, zeros and tiny values are the
ones at which COAT's published kernel loses a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from narrowgauge.numerics._arrays import FloatArray, as_float64
from narrowgauge.numerics.check_report import Failure
from narrowgauge.numerics.metrics import relative_rms
from narrowgauge.numerics.optimizers.data import gradient_scales, moments
from narrowgauge.numerics.optimizers.protocol import StateCodec, state_bytes

LOST = 0.5
"""Relative rms error on ordinary moments beyond which a state is not stored but lost."""
CONSTANT_ERROR = 1.0 / 16.0
"""Largest relative error of a group whose elements are all equal: the largest of a group is what codecs keep best."""
CONSTANT_RESOLUTIONS = 5.0
"""The same in units of a codec's `resolution`: companded codes are four times as coarse at the top as at zero."""
WORSE = 4.0
"""How much larger a group's error may be for what lies beside or within it."""
FLOOR = 1e-3
"""Relative rms error that is no harm."""


@dataclass
class Subject:
    """A codec, the length of its groups, and what was found so far; repeats: equal calls gave equal states."""

    codec: StateCodec
    group: int
    stochastic: bool
    betas: tuple[float, float]
    rng: np.random.Generator
    measurements: dict[str, float] = field(default_factory=dict)
    repeats: bool = True

    @property
    def comparable(self) -> bool:
        """Whether equal moments have to give equal states."""
        return self.repeats and not self.stochastic

    @property
    def resolution(self) -> float:
        """Share of a group's largest m / √v that the codec tells from zero."""
        return float(getattr(self.codec, "resolution", 0.0))

    def through(self, m: FloatArray, v: FloatArray, seed: int = 0) -> tuple[FloatArray, FloatArray]:
        """m and v as they read back, float64."""
        state = self.codec.store(m.astype(np.float32), v.astype(np.float32), seed)
        first, second = self.codec.load(state)
        return as_float64(first, "load()[0]"), as_float64(second, "load()[1]")

    def ordinary(self, count: int, name: str = "iid") -> tuple[FloatArray, FloatArray]:
        """Moments of a data set, as float32 holds them."""
        m, v = moments(gradient_scales(name, count, self.rng), self.betas, self.rng)
        return m.astype(np.float32).astype(np.float64), v.astype(np.float32).astype(np.float64)


def is_stochastic(codec: StateCodec, rng: np.random.Generator) -> bool:
    """What the codec says, else whether two seeds give different states."""
    said = getattr(codec, "stochastic", None)
    if said is not None:
        return bool(said)
    m = rng.standard_normal(512).astype(np.float32)
    first, second = (codec.load(codec.store(m, np.square(m), seed)) for seed in (1, 2))
    return any(not np.array_equal(as_float64(a, "m"), as_float64(b, "m")) for a, b in zip(first, second, strict=True))


def _ordinary(s: Subject) -> Iterator[Failure]:
    """Shape, repeatability, and that the moments are there at all."""
    check = "ordinary moments"
    for shape in ((3, 5, s.group + 1), (1,), (0,), (s.group,)):
        m, v = (x.reshape(shape) for x in s.ordinary(int(np.prod(shape))))
        got = s.through(m, v)
        for name, x in zip(("m", "v"), got, strict=True):
            if x.shape != shape:
                yield Failure(check, f"{name} of shape {shape} reads back as {x.shape}", "wrong shape")
                return
    m, v = s.ordinary(4 * s.group + 7)
    first, again = s.through(m, v, 3), s.through(m, v, 3)
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True)):
        s.repeats = False
        yield Failure(check, "equal moments under an equal seed give different states", "not deterministic")
    for name, x, exact in (("m", first[0], m), ("v", first[1], v)):
        error = relative_rms(x, exact)
        s.measurements[f"relative rms of {name}, iid"] = error
        if not np.isfinite(x).all():
            yield Failure(check, f"{int((~np.isfinite(x)).sum())} of {x.size} elements of {name} are not finite",
                          "non-finite state")  # fmt: skip
        elif relative_rms(np.abs(x), np.abs(exact)) > LOST:  # signs have a check of their own
            detail = f"{name} is off by {error:.3g} of its rms; element 0: got {x[0]:.6g}, stored {exact[0]:.6g}"
            yield Failure(check, detail, f"{name} lost")


def _signs(s: Subject) -> Iterator[Failure]:
    for name in ("iid", "lognormal 1"):
        m, v = s.ordinary(8 * s.group, name)
        got, second = s.through(m, v)
        ratio = np.abs(m) / np.sqrt(v)
        told = ratio > s.resolution * ratio.reshape(-1, s.group).max(axis=1).repeat(s.group)
        wrong = (got * m < 0.0) & told
        if wrong.any():
            at = int(np.argmax(wrong))
            kind = "m sign lost" if (got >= 0.0).all() or (got <= 0.0).all() else "m sign flipped"
            detail = (
                f"{name}: {int(wrong.sum())} of {m.size} signs differ; element {at}: got {got[at]:.6g} for {m[at]:.6g}"
            )
            yield Failure("signs", detail, kind)
            return
        if (second < 0.0).any():
            yield Failure("signs", f"{name}: {int((second < 0).sum())} elements of v are negative", "v negative")
            return


def _zeros(s: Subject) -> Iterator[Failure]:
    """Zeros, alone and within a group, at places where kernels' lanes begin."""
    check, count = "zeros", 3 * s.group
    zero = np.zeros(count)
    got = s.through(zero, zero)
    for name, x in zip(("m", "v"), got, strict=True):
        if x.any():
            yield Failure(check, f"{name} of zeros reads back as {x[np.argmax(x != 0)]:.6g}", "zero lost")
    m, v = s.ordinary(count)
    clean = s.through(m, v)
    for place in (0, 32, s.group // 2, s.group - 1):
        at = s.group + min(place, s.group - 1)
        holes = m.copy(), v.copy()
        for x in holes:
            x[at] = 0.0
        got = s.through(*holes)
        others = np.arange(s.group, 2 * s.group) != at
        for name, x, whole, exact in zip(("m", "v"), got, clean, holes, strict=True):
            if x[at] != 0.0 and not 0.0 < x[at] <= exact[exact > 0].min(initial=np.inf):
                yield Failure(check, f"{name} = 0 at place {place} of a group reads back as {x[at]:.6g}", "zero lost")
            if not others.any():
                continue
            inside = slice(s.group, 2 * s.group)
            error = relative_rms(x[inside][others], exact[inside][others])
            usual = relative_rms(whole[inside][others], exact[inside][others])
            if not error <= WORSE * usual + FLOOR:
                detail = (
                    f"one zero at place {place} of its group makes the error of {name} {error:.3g}, not {usual:.3g}"
                )
                yield Failure(check, detail, "zero poisons its group")
                return


def _constant(s: Subject) -> Iterator[Failure]:
    """Groups whose elements are all equal, and a last group of one element."""
    limit = max(CONSTANT_ERROR, CONSTANT_RESOLUTIONS * s.resolution)
    for value in (1e-3, 0.37, 1.0, 3e-7, 1e-12):
        m = np.full(2 * s.group + 1, value)
        for name, x, exact in zip(("m", "v"), s.through(m, np.square(m)), (m, np.square(m)), strict=True):
            error = np.abs(x / np.float32(exact[0]).astype(np.float64) - 1.0)
            if not (error <= limit).all():
                at = int(np.argmax(np.where(np.isfinite(error), error, np.inf)))
                detail = f"{name} = {exact[0]:.6g} throughout reads back as {x[at]:.6g} (element {at})"
                yield Failure("constant groups", detail, "constant group lost")
                return


def _tiny(s: Subject) -> Iterator[Failure]:
    """One element far below its group: it may lose itself, not the others, and v may not become 0."""
    m, v = s.ordinary(3 * s.group)
    at = s.group + s.group // 2
    small = m.copy(), v.copy()
    small[0][at], small[1][at] = 1e-8 * np.abs(m).max(), 1e-16 * v.max()
    got = s.through(*small)
    inside = np.arange(s.group, 2 * s.group)
    inside = inside[inside != at]
    for name, x, exact in zip(("m", "v"), got, small, strict=True):
        if inside.size:
            error = relative_rms(np.abs(x[inside]), np.abs(exact[inside]))
            s.measurements[f"relative rms of {name} beside one tiny element"] = error
            if not error <= LOST:
                yield Failure(
                    "tiny elements", f"one tiny element makes the error of {name} {error:.3g}", f"{name} lost"
                )
    if not got[1][at] > 0.0:
        detail = f"v = {small[1][at]:.6g} in a group around {np.median(v):.3g} reads back as {got[1][at]:.6g}"
        yield Failure("tiny elements", detail, "v truncated to zero")


def _groups(s: Subject) -> Iterator[Failure]:
    """Groups of magnitudes from 1e-6 to 1 (v: 1e-12 to 1) read back as they do alone."""
    sizes = (1.0, 1e-6, 1e-3, 1e-5, 0.1)
    m, v = s.ordinary(len(sizes) * s.group)
    factor = np.repeat(sizes, s.group)
    m, v = m * factor, v * np.square(factor)
    together = s.through(m, v)
    for index, size in enumerate(sizes):
        part = slice(index * s.group, (index + 1) * s.group)
        alone = s.through(m[part], v[part])
        for name, x, single, exact in zip(("m", "v"), together, alone, (m, v), strict=True):
            if s.comparable and np.array_equal(x[part], single):
                continue
            error, usual = relative_rms(x[part], exact[part]), relative_rms(single, exact[part])
            if not s.comparable and error <= WORSE * usual + FLOOR:
                continue
            detail = (
                f"{name} of a group near {size * 1e-3:.0e}, of {s.group} elements, depends on the other groups: its "
                f"error is {error:.3g}, alone {usual:.3g}"
            )
            yield Failure("groups", detail, "group scale shared across groups")
            return


def _not_finite(s: Subject) -> Iterator[Failure]:
    """A NaN or an infinity in one element reaches its group only, and is not hidden."""
    m, v = s.ordinary(5 * s.group)
    clean = s.through(m, v)
    at = 2 * s.group + s.group // 3
    outside = (np.arange(m.size) < 2 * s.group) | (np.arange(m.size) >= 3 * s.group)
    for special in (np.nan, np.inf):
        for position, name in enumerate(("m", "v")):
            broken = m.copy(), v.copy()
            broken[position][at] = special
            with np.errstate(all="ignore"):
                got = s.through(*broken)
            for read, whole, which in zip(got, clean, ("m", "v"), strict=True):
                touched = ~np.isfinite(read[outside])
                if s.comparable:
                    touched |= read[outside] != whole[outside]
                if touched.any():
                    detail = (
                        f"{special} in one element of {name} changes {int(touched.sum())} elements of {which} outside"
                    )
                    yield Failure("not finite", f"{detail} its group of {s.group}", "non-finite leak")
                    return
            if np.isfinite(got[position][at]):
                detail = f"{special} in {name} reads back as {got[position][at]:.6g}, as if all were well"
                yield Failure("not finite", detail, "non-finite lost")
                return


def _bytes(s: Subject) -> Iterator[Failure]:
    """Bytes of the state per parameter, and whether the codec says the same."""
    count = 16 * s.group
    m, v = s.ordinary(count)
    size = state_bytes(s.codec.store(m.astype(np.float32), v.astype(np.float32), 0))
    if size is None:
        return
    s.measurements["state bytes per parameter"] = size / count
    said: Any = getattr(s.codec, "bytes_per_parameter", None)
    if said is not None and abs(size / count - float(said)) > 0.01 * float(said):
        detail = f"the state has {size / count:.4g} bytes per parameter, the codec says {float(said):.4g}"
        yield Failure("state bytes", detail, "wrong state bytes")


CONTRACT: Mapping[str, Callable[[Subject], Iterator[Failure]]] = {
    "ordinary moments": _ordinary,
    "signs": _signs,
    "zeros": _zeros,
    "constant groups": _constant,
    "tiny elements": _tiny,
    "groups": _groups,
    "not finite": _not_finite,
    "state bytes": _bytes,
}
