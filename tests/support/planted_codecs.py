"""Optimizer codecs in numpy: correct ones, and the same with one fault each, for `check_optimizer` to find and name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from narrowgauge.formats import get
from narrowgauge.formats.philox import rounding_bits

GROUP = 128
BF16 = get("bf16")


class Linear8:
    """int8 of m / max|m|, uint8 of √(v / max v), groups of 128; a positive v keeps at least code 1."""

    group = GROUP
    bytes_per_parameter = 2 + 8 / GROUP

    def store(self, m: Any, v: Any, seed: int = 0) -> Any:
        groups_m, groups_v = self.grouped(m), self.grouped(v)
        with np.errstate(all="ignore"):
            scale_m, scale_v = self.scale(groups_m), self.scale(groups_v)
            codes_m = self.round(self.signs(127 * groups_m / scale_m), seed)
            codes_v = self.keep(self.round(255 * np.sqrt(groups_v / scale_v), seed + 1), groups_v)
        return (self.as_int(codes_m, np.int8), scale_m.astype(np.float32), self.as_int(codes_v, np.uint8),
                scale_v.astype(np.float32), m.shape)  # fmt: skip

    def load(self, state: Any) -> Any:
        codes_m, scale_m, codes_v, scale_v, shape = state
        count = int(np.prod(shape))
        m = codes_m / np.float32(127) * scale_m
        v = np.square(codes_v / np.float32(255)) * scale_v
        return m.reshape(-1)[:count].reshape(shape), v.reshape(-1)[:count].reshape(shape)

    def grouped(self, x: Any) -> Any:
        padded = np.zeros(-(-x.size // GROUP) * GROUP)
        padded[: x.size] = x.reshape(-1)
        return padded.reshape(-1, GROUP)

    def scale(self, groups: Any) -> Any:
        amax = np.abs(groups).max(axis=1, keepdims=True, initial=0.0)
        return np.where(np.isfinite(amax), np.where(amax > 0, amax, 1.0), np.nan).astype(np.float32)

    def signs(self, y: Any) -> Any:
        return y

    def round(self, y: Any, seed: int) -> Any:
        return np.rint(y)

    def keep(self, codes: Any, groups: Any) -> Any:
        return np.where((codes == 0) & (groups > 0), 1, codes)

    def as_int(self, codes: Any, dtype: Any) -> Any:
        return np.nan_to_num(codes).astype(dtype)


class TruncatesV(Linear8):
    """Small v become zero."""

    def keep(self, codes: Any, groups: Any) -> Any:
        return codes


class SharedScale(Linear8):
    """One scale for the whole tensor."""

    def scale(self, groups: Any) -> Any:
        return np.broadcast_to(super().scale(groups.reshape(1, -1)), (groups.shape[0], 1)).copy()


class LeaksNan(Linear8):
    """A NaN in one group makes the next one NaN as well."""

    def scale(self, groups: Any) -> Any:
        scale = super().scale(groups)
        bad = np.isnan(scale)
        bad[1:] |= bad[:-1].copy()
        return np.where(bad, np.nan, scale).astype(np.float32)


class HidesNan(Linear8):
    def scale(self, groups: Any) -> Any:
        return super().scale(np.nan_to_num(groups, posinf=0.0))


class LosesSign(Linear8):
    def signs(self, y: Any) -> Any:
        return np.abs(y)


class FlipsSomeSigns(Linear8):
    """Codes beyond 126 wrap around."""

    def as_int(self, codes: Any, dtype: Any) -> Any:
        wrapped = np.where(codes > 126, -codes, codes) if dtype is np.int8 else codes
        return super().as_int(wrapped, dtype)


class PoisonedByZero(Linear8):
    """A zero in the first place of a group is taken for its scale's exponent, as in COAT's published kernel."""

    def scale(self, groups: Any) -> Any:
        scale = super().scale(groups)
        return np.where(groups[:, :1] == 0.0, 16 * scale, scale).astype(np.float32)


class ConstantGroupIsNan(Linear8):
    """Divides by max - min."""

    def scale(self, groups: Any) -> Any:
        scale = super().scale(groups)
        even = (groups.max(axis=1, keepdims=True) == groups.min(axis=1, keepdims=True)) & (groups[:, :1] != 0)
        return np.where(even, np.nan, scale).astype(np.float32)


class Shrinks(Linear8):
    """Rounds towards zero: every round of storing takes something away."""

    def round(self, y: Any, seed: int) -> Any:
        return np.trunc(0.999 * y)


class WrongBytes(Linear8):
    bytes_per_parameter = 1.0


class Unrepeatable(Linear8):
    stochastic = False

    def __init__(self) -> None:
        self.calls = 0

    def round(self, y: Any, seed: int) -> Any:
        self.calls += 1
        return np.floor(y + np.random.default_rng(self.calls).random(y.shape))


class Stochastic8(Linear8):
    """m stochastically rounded to int8; v as the nearest bfloat16 neighbours, stochastically rounded."""

    bytes_per_parameter = 3 + 4 / GROUP

    def store(self, m: Any, v: Any, seed: int = 0) -> Any:
        groups = self.grouped(m)
        with np.errstate(all="ignore"):
            scale = self.scale(groups)
            codes = self.as_int(np.clip(self.round(127 * groups / scale, seed), -127, 127), np.int8)
        bits = self.random_bits(v.shape, seed + 1)
        return codes, scale, BF16.encode(v, "stochastic", overflow="propagate", random_bits=bits), m.shape

    def load(self, state: Any) -> Any:
        codes, scale, second, shape = state
        m = codes / np.float32(127) * scale
        return m.reshape(-1)[: int(np.prod(shape))].reshape(shape), BF16.decode(second).astype(np.float32)

    def round(self, y: Any, seed: int) -> Any:
        return np.floor(y + self.random_bits(y.shape, seed) / 2.0**24)

    def random_bits(self, shape: Any, seed: int) -> Any:
        return rounding_bits(shape, seed)


class BiasedStochastic8(Stochastic8):
    """Half of the random range: values are rounded up too seldom."""

    def random_bits(self, shape: Any, seed: int) -> Any:
        return super().random_bits(shape, seed) >> np.uint32(1)


class SeedWithoutEffect(Stochastic8):
    stochastic = True

    def random_bits(self, shape: Any, seed: int) -> Any:
        return super().random_bits(shape, 1)


@dataclass(frozen=True)
class Bf16Weight:
    """A weight in bfloat16: mode nearest_even loses every small step, stochastic keeps the mean."""

    rounding: str = "nearest_even"

    def store_weight(self, w: Any, seed: int) -> Any:
        bits = rounding_bits(w.shape, seed) if self.rounding == "stochastic" else None
        return BF16.encode(w, self.rounding, random_bits=bits)

    def load_weight(self, state: Any) -> Any:
        return BF16.decode(state).astype(np.float32)


@dataclass(frozen=True)
class SplitWeight:
    """bfloat16 and an int8 rest of half a unit in the last place; the rest rounded stochastically or to nearest."""

    stochastic_rest: bool = True

    def store_weight(self, w: Any, seed: int) -> Any:
        high = BF16.encode(w)
        near = BF16.decode(high)
        unit = np.ldexp(1.0, np.frexp(near)[1] - 8)
        share = np.clip((w - near) / (unit / 2), -1.0, 1.0) * 127
        noise = rounding_bits(w.shape, seed) / 2.0**24 if self.stochastic_rest else 0.5
        return high, np.floor(share + noise).clip(-127, 127).astype(np.int8)

    def load_weight(self, state: Any) -> Any:
        near = BF16.decode(state[0])
        unit = np.ldexp(1.0, np.frexp(near)[1] - 8)
        return (near + state[1] / 127 * unit / 2).astype(np.float32)


@dataclass(frozen=True)
class Planted:
    """A faulty codec, the kind by which the report has to name it, and how to check it."""

    kind: str
    codec: Any
    options: dict[str, Any] = field(default_factory=dict)


def planted() -> list[Planted]:
    """Every fault."""
    return [
        Planted("v truncated to zero", TruncatesV()),
        Planted("group scale shared across groups", SharedScale()),
        Planted("non-finite leak", LeaksNan()),
        Planted("non-finite lost", HidesNan()),
        Planted("m sign lost", LosesSign()),
        Planted("m sign flipped", FlipsSomeSigns()),
        Planted("zero poisons its group", PoisonedByZero()),
        Planted("constant group lost", ConstantGroupIsNan()),
        Planted("drifts under re-encoding", Shrinks()),
        Planted("wrong state bytes", WrongBytes()),
        Planted("not deterministic", Unrepeatable()),
        Planted("biased stochastic rounding", BiasedStochastic8()),
        Planted("seed without effect", SeedWithoutEffect()),
        Planted("decay lost", Bf16Weight()),
        Planted("decay lost", SplitWeight(stochastic_rest=False), {"decay_rates": (1e-5,)}),
    ]
