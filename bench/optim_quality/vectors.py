"""Test vectors of the number formats, of range expansion, of the log code and of its companions: pass or fail.

The figures are those of the specifications (OCP 8-bit floating point, Microscaling), of the papers and released codes
named in `bench/optim_peers`, and of independent emulations in numpy and ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from narrowgauge.bench.optim_peers import STATE_PEERS
from narrowgauge.bench.optim_peers.arrays import e4m3_codes, from_bf16, to_bf16, values_of
from narrowgauge.bench.optim_peers.coat import KERNEL_RANGE, Coat, Expanded, contract
from narrowgauge.bench.optim_peers.flash import softsign_codes
from narrowgauge.bench.optim_peers.log_nearest import LogNearest
from narrowgauge.bench.optim_peers.weights import SplitWeight
from narrowgauge.bench.optim_quality.table import Line
from narrowgauge.formats import get
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.numerics import relative_rms
from narrowgauge.numerics.optimizers.protocol import StateCodec

Array = NDArray[np.float64]
Codecs = Mapping[str, StateCodec]
"""Codecs of this package by name."""


def _close(name: str, found: float, expected: float, tolerance: float) -> Line:
    """tolerance: relative."""
    return Line(name, bool(abs(found - expected) <= tolerance * abs(expected)), f"{found:.6g} for {expected:.6g}")


def _equal(name: str, found: Iterable[float], expected: Iterable[float]) -> Line:
    pair = [float(x) for x in found], [float(x) for x in expected]
    return Line(name, pair[0] == pair[1], "as it should be" if pair[0] == pair[1] else f"{pair[0]} for {pair[1]}")


def format_facts(_: Codecs) -> Iterator[Line]:
    """Largest, smallest normal and smallest subnormal value; grids."""
    for name, facts in {
        "e4m3fn": (448.0, 2.0**-6, 2.0**-9),
        "e5m2": (57344.0, 2.0**-14, 2.0**-16),
        "bf16": (2.0**128 - 2.0**120, 2.0**-126, 2.0**-133),
    }.items():
        fmt = get(name)
        yield _equal(f"{name}: largest, smallest normal, smallest subnormal",
                     (fmt.max, fmt.smallest_normal, fmt.smallest_subnormal), facts)  # fmt: skip
    yield _equal("e2m1fn: its magnitudes", get("e2m1fn").decode(np.arange(8)), (0, 0.5, 1, 1.5, 2, 3, 4, 6))
    e8m0 = get("e8m0fnu")
    yield _equal("e8m0fnu: smallest and largest", (e8m0.decode(0), e8m0.decode(254)), (2.0**-127, 2.0**127))
    yield Line("e8m0fnu: 0xFF is NaN", bool(np.isnan(e8m0.decode(255))), str(float(e8m0.decode(255))))


E4M3_ROUNDINGS = {
    0.000976: 0x00, 0.001: 0x01, 0.0146: 0x07, 0.0156: 0x08, 17.0: 0x58, 18.0: 0x59, 19.0: 0x5A, 447.0: 0x7E,
    464.0: 0x7E,
}  # fmt: skip


def e4m3_rounding(_: Codecs) -> Iterator[Line]:
    """E4M3 to nearest even, ties and overflow, and what rounding costs values of all sizes."""
    x = np.array(list(E4M3_ROUNDINGS))
    codes = list(E4M3_ROUNDINGS.values())
    yield _equal("E4M3 codes of nine values", get("e4m3fn").encode(x), codes)
    yield _equal("E4M3 codes of nine values, the peers' encoder", e4m3_codes(x.astype(np.float32)), codes)
    past = get("e4m3fn").encode(np.array([464.0, 464.01]), overflow="nonsaturating")
    yield _equal("E4M3 without saturation: 464 is the last number", past, (0x7E, 0x7F))
    spread = np.exp2(np.random.default_rng(1).uniform(-3.0, 3.0, 1 << 18))
    for name, expected in (("e4m3fn", 0.0266), ("e5m2", 0.0528), ("bf16", 0.00166)):
        fmt = get(name)
        ratio = fmt.decode(fmt.encode(spread)) / spread
        yield _close(f"{name}: rms relative error of log-uniform values", float(np.sqrt(np.mean((ratio - 1) ** 2))),
                     expected, 0.02)  # fmt: skip


BF16_STOCHASTIC = {1.0 + 2.0**-10: (0x3F80, 0.125), -3.1415927: (0xC049, 0.061935), 65504.0: (0x477F, 0.875)}


def stochastic_bf16(ours: Codecs) -> Iterator[Line]:
    """Probabilities of bfloat16's stochastic rounding, by all 2^16 draws, and the mean of a million."""
    fmt = get("bf16")
    draws = np.arange(1 << 16)
    for x, (low, chance) in BF16_STOCHASTIC.items():
        values = np.full(draws.size, np.float32(x))
        for who, codes in (
            ("formats", fmt.encode(values, "stochastic", random_bits=draws << (RANDOM_BITS - 16))),
            ("peers", to_bf16(values, draws.astype(np.uint32))),
        ):
            yield _equal(f"bfloat16, stochastic, of {x:.8g}: lower neighbour ({who})", [codes.min()], [low])
            yield _close(f"bfloat16, stochastic, of {x:.8g}: how often up ({who})", float(np.mean(codes != low)),
                         chance, 1e-4)  # fmt: skip
    same = np.full(1_000_000, np.float32(1.0 + 2.0**-10))
    subjects = {"bfloat16, stochastic": STATE_PEERS["bfloat16, stochastic"]}
    if "bf16_sr" in ours:
        subjects["bf16_sr"] = ours["bf16_sr"]
    for name, codec in subjects.items():
        m, _ = codec.load(codec.store(same, same, 1))
        mean = float(np.mean(np.asarray(m, np.float64)))
        yield Line(f"{name}: mean of a million times 1 + 2^-10", abs(mean - 1.0009765625) <= 8e-6, f"{mean:.7f}")


def stochastic_narrow(_: Codecs) -> Iterator[Line]:
    """E4M3 and E2M1 round without a bias, subnormals included."""
    rng = np.random.default_rng(2)
    for name, low, high in (("e4m3fn", 2.0**-9, 448.0), ("e4m3fn", 0.0, 2.0**-6), ("e2m1fn", -6.0, 6.0)):
        fmt = get(name)
        x = rng.uniform(low, high, 400_000)
        bits = rng.integers(0, 1 << RANDOM_BITS, x.size)
        y = fmt.decode(fmt.encode(x, "stochastic", random_bits=bits))
        slope = float(np.dot(y, x) / np.dot(x, x))
        yield Line(f"{name}, stochastic, unbiased from {low:g} to {high:g}", abs(slope - 1.0) <= 1e-3, f"{slope:.5f}")


def three_quarters(_: Codecs) -> Iterator[Line]:
    """E2M1 in blocks of 32 with a power of two, X = 2^(floor(log2 amax) - 2): unbiased if 3/4 x is rounded, because
    nothing is clipped; biased by 1 % if x is (Tseng et al., arXiv 2502.20586)."""
    rng = np.random.default_rng(3)
    fmt = get("e2m1fn")
    x = rng.standard_normal((1 << 15, 32))
    scale = np.exp2(np.floor(np.log2(np.abs(x).max(axis=1, keepdims=True))) - 2)
    for factor, expected in ((0.75, 1.0), (1.0, 0.98944)):
        bits = rng.integers(0, 1 << RANDOM_BITS, x.shape)
        y = fmt.decode(fmt.encode(factor * x / scale, "stochastic", random_bits=bits)) * scale / factor
        slope = float(np.sum(x * y) / np.sum(x * x))
        yield Line(f"MXFP4, {factor:g} x rounded: slope", abs(slope - expected) <= 1e-3, f"{slope:.5f} for {expected}")


def _expansion_inputs() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    i = np.arange(128)
    return ((-1.0) ** i * 2.0 ** (-i / 16)).astype(np.float32), (1e-8 * (1 + i / 64)).astype(np.float32)


M_CODES = (0x7E, 0xFD, 0x7C, 0xFB, 0x7A, 0xF9, 0x78, 0xF7, 0x76, 0xF5, 0x73, 0xF2, 0x72, 0xF1, 0x70, 0xEF)
M_LAST = (0x05, 0x85, 0x04, 0x84, 0x04, 0x83, 0x03, 0x83)
V_CODES, V_LAST = (2, 3, 3, 4, 4, 5, 6, 7), (0x79, 0x7A, 0x7B, 0x7B, 0x7C, 0x7D, 0x7D, 0x7E)


def range_expansion(ours: Codecs) -> Iterator[Line]:
    """COAT's codes for a falling geometric row of alternating signs (m) and a rising arithmetic one (v)."""
    m, v = _expansion_inputs()
    kernel = Coat("", released=True, target=KERNEL_RANGE)
    first, second = kernel.expand(m), kernel.expand(v)
    for which, stored, numbers in (
        ("m", first, (2.0625, 0.063868572, 0.64985599)),
        ("v", second, (10.5, 1.727534e-8, 0.694548)),
    ):
        for name, value, expected in zip(("k", "c", "s"), _numbers(stored), numbers, strict=True):
            yield _close(f"COAT's kernel, {which}: {name}", value, expected, 2e-6)
    yield _equal("COAT's kernel, m: codes 0 to 15", first.codes[0, :16], M_CODES)
    yield _equal("COAT's kernel, m: codes 120 to 127", first.codes[0, 120:], M_LAST)
    yield _equal("COAT's kernel, v: codes 0 to 7", second.codes[0, :8], V_CODES)
    yield _equal("COAT's kernel, v: codes 120 to 127", second.codes[0, 120:], V_LAST)
    read = {"COAT's kernel": (contract(first)[0], contract(second)[0])}
    if "coat" in ours:
        got = ours["coat"].load(ours["coat"].store(m, v, 0))
        read["coat"] = np.asarray(got[0], np.float32), np.asarray(got[1], np.float32)
    for name, (got_m, got_v) in read.items():
        for at, expected in zip((0, 1, 2, 3, 125, 126, 127),
                                (1.0, -0.9647067, 0.927985, -0.8896501, -0.0042882, 0.0042882, -0.0042882),
                                strict=True):  # fmt: skip
            yield _close(f"{name}, m: element {at} reads back", float(got_m[at]), expected, 2e-5)
        for which, got_x, exact, rms, largest in (("m", got_m, m, 0.01588, 0.0613), ("v", got_v, v, 0.003253, 0.0160)):
            # The figures of m are means of relative errors, as the row's values are of all sizes.
            error = got_x.astype(np.float64) / exact - 1.0
            yield _close(f"{name}, {which}: rms relative error", float(np.sqrt(np.mean(error**2))), rms, 0.01)
            yield _close(f"{name}, {which}: largest relative error", float(np.max(np.abs(error))), largest, 0.01)


def _numbers(stored: Expanded) -> tuple[float, float, float]:
    return float(stored.power[0, 0]), float(stored.center[0, 0]), float(stored.scale[0, 0])


G = np.array([1e-3, -2e-3, 5e-4, 0.0, 3e-3, -1e-5, 2e-4, -8e-4])
LOG_CODES = (206, 237, 175, 0, 255, 1, 134, 196)
LOG_V = (9.96559e-7, 4.01009e-6, 2.47657e-7, 0.0, 9e-6, 1e-10, 3.92781e-8, 6.35995e-7)
LOG_M_CODES = (127, -126, 127, 0, 126, -126, 127, -127)
LOG_M = (3.02223e-4, -5.96779e-4, 1.50661e-4, 0.0, 8.94042e-4, -2.98014e-6, 6.0e-5, -2.41436e-4)
LOG_STEP = 0.06479385


def log_code(ours: Codecs) -> Iterator[Line]:
    """Eight elements through the log code and the whitened softsign code."""
    m, v = (0.3 * G).astype(np.float32), np.square(G).astype(np.float32)
    model = LogNearest()
    state = model.store(m, v, 0)
    codes_m, scale, codes_v, low, step, _ = state
    yield _close("log8, to nearest: lo", float(low[0, 0]), -33.219281, 1e-6)
    yield _close("log8, to nearest: D", float(step[0, 0]), LOG_STEP, 1e-6)
    yield _close("log8, to nearest: scale of m / sqrt(v)", float(scale[0, 0]), 0.3027443, 1e-5)
    yield _equal("log8, to nearest: codes of v", codes_v[0, :8], LOG_CODES)
    yield _equal("log8, to nearest: codes of m", codes_m[0, :8], LOG_M_CODES)
    got_m, got_v = model.load(state)
    for which, got, expected in (("v", got_v, LOG_V), ("m", got_m, LOG_M)):
        error = relative_rms(got, np.array(expected))
        yield Line(f"log8, to nearest: {which} reads back", error <= 2e-5, f"off by {error:.2g}")
    half = float((2.0 ** (0.5 * LOG_STEP) - 1.0) / (2.0**LOG_STEP - 1.0))
    yield _close("log8: how often up in the middle of a step", half, 0.494386, 1e-5)
    if "log8" in ours:
        yield from _log_code_of(ours["log8"], m, v)


SEEDS = 400


def _log_code_of(codec: StateCodec, m: NDArray[np.float32], v: NDArray[np.float32]) -> Iterator[Line]:
    """What holds of `log8` whatever its draws: zeros stay, no v is farther than a step, and the mean is v itself."""
    reads = [codec.load(codec.store(m, v, seed)) for seed in range(SEEDS)]
    all_m, all_v = (np.array([np.asarray(read[part], np.float64) for read in reads]) for part in (0, 1))
    yield Line("log8: zeros read back as zeros", not (all_m[:, 3].any() or all_v[:, 3].any()), "element 3 of 8")
    positive = v > 0
    off = float(np.max(np.abs(np.log2(all_v[:, positive] / v[positive].astype(np.float64)))))
    # lo and D are rounded outward, to 1/128 of an octave and to bfloat16.
    yield Line("log8: no v is farther than a step", off <= LOG_STEP * (1 + 2**-7) + 2**-7, f"{off:.4f} octaves")
    bias = all_v[:, positive].mean(axis=0) / v[positive] - 1.0
    limit = 4.5 * 0.5 * LOG_STEP * np.log(2.0) / np.sqrt(SEEDS)
    yield Line("log8: the mean over seeds is v", bool(np.max(np.abs(bias)) <= limit),
               f"largest deviation {np.max(np.abs(bias)):.2g}, chance {limit:.2g}")  # fmt: skip
    # Of the largest codes, which these are, half a step of the softsign code is 1 / 127.
    error = float(np.max(np.abs(all_m[:, positive] / m[positive] - 1.0)))
    yield Line("log8: m does not see v's error", error <= 0.01, f"largest relative error {error:.3g}")


def companions(_: Codecs) -> Iterator[Line]:
    """The softsign code, the dynamic map and the split weight."""
    z = np.array([1, 0.5, 0.25, 0.1, 0.01, 0.002, 0.0019], np.float32)
    yield _equal("softsign codes of 1, .5, .25, .1, .01, .002, .0019", softsign_codes(z), (127, 85, 51, 23, 3, 1, 0))
    signed, unsigned = (np.sort(values_of(name).astype(np.float64)) for name in ("dynamic8", "udynamic8"))
    middle = int(np.searchsorted(signed, 0.0))
    yield Line("dynamic map, signed: around zero",
               bool(np.allclose(signed[middle - 2 : middle + 3], (-3.25e-6, -5.5e-7, 0, 5.5e-7, 3.25e-6), rtol=1e-5)),
               ", ".join(f"{x:.3g}" for x in signed[middle - 2 : middle + 3]))  # fmt: skip
    yield Line("dynamic map, signed: its ends", bool(np.allclose(signed[[0, -1]], (-0.9929687, 1.0), rtol=1e-6)),
               f"{signed[0]:.7f}, {signed[-1]:.7f}")  # fmt: skip
    yield Line("dynamic map, unsigned: smallest", bool(np.allclose(unsigned[:4], (0, 3.25e-7, 7.75e-7, 2.125e-6))),
               ", ".join(f"{x:.4g}" for x in unsigned[:4]))  # fmt: skip
    codec = SplitWeight("", stochastic=False)
    w = np.exp2(np.random.default_rng(4).uniform(-8, 8, 1 << 18)).astype(np.float32)
    error = np.abs(codec.load_weight(codec.store_weight(w)).astype(np.float64) / w - 1.0)
    # Of the neighbour below a power of two, whose own unit is half of that of the bfloat16 it rounds to.
    yield Line("bfloat16 + int8: largest relative error at most 2^-8 / 254",
               float(error.max()) <= 2.0**-8 / 254 * (1 + 2.0**-8), f"{error.max():.4g}")  # fmt: skip
    yield _close("bfloat16 + int8: rms relative error", float(np.sqrt(np.mean(error**2))), 6.5e-6, 0.03)
    yield Line("bfloat16 of a NaN and of infinities", np.array_equal(
        from_bf16(to_bf16(np.array([np.nan, np.inf, -np.inf], np.float32), np.full(3, 0xFFFF, np.uint32))),
        np.array([np.nan, np.inf, -np.inf], np.float32), equal_nan=True), "stay what they are")  # fmt: skip


def update_rule(_: Codecs) -> Iterator[Line]:
    """AdamW as torch writes it, and as bitsandbytes does (eps times sqrt(c₂) inside, decay after the step): the same
    update, and the same weight but for the order of the decay."""
    rng = np.random.default_rng(5)
    lr, beta1, beta2, eps, decay = 1e-2, 0.9, 0.999, 1e-8, 0.1
    ours = theirs = rng.standard_normal(64)
    m = v = np.zeros(64)
    worst = 0.0
    for t in range(1, 51):
        g = rng.standard_normal(64)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        c1, c2 = 1 - beta1**t, 1 - beta2**t
        first = lr / c1 * m / (np.sqrt(v) / np.sqrt(c2) + eps)
        second = lr * np.sqrt(c2) / c1 * m / (np.sqrt(v) + np.sqrt(c2) * eps)
        worst = max(worst, float(np.max(np.abs(first - second) / np.abs(second))))
        ours = (1 - lr * decay) * ours - first
        theirs = (1 - lr * decay) * (theirs - second)
    yield Line("AdamW: torch's update and bitsandbytes'", worst <= 1e-12, f"differ by {worst:.2g}")
    # Decaying after the step shrinks the step of that turn as well, by lr · wd of a step of lr.
    apart = float(np.max(np.abs(ours - theirs)))
    yield Line("AdamW: weights after 50 steps, decay before or after", apart <= 51 * lr * decay * 10 * lr,
               f"differ by {apart:.2g}")  # fmt: skip


VECTORS: tuple[Callable[[Codecs], Iterator[Line]], ...] = (
    format_facts, e4m3_rounding, stochastic_bf16, stochastic_narrow, three_quarters, range_expansion, log_code,
    companions, update_rule,
)  # fmt: skip


def check_vectors(ours: Codecs) -> list[Line]:
    """All of them; those of this package's codecs for the ones that are there."""
    return [line for vectors in VECTORS for line in vectors(ours)]
