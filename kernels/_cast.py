"""Triton device functions: encode and decode by integer arithmetic, Philox bits, scales. The only device definitions.

The value is written S · 2^(E - t) with E = max(exponent, emin): then code = (E - emin) · 2^t + round(S), which carries
across binades and through the subnormals without a case. A native cast instruction is an optimisation to be proven
equal, never the definition (Triton's interpreter rounds such casts wrongly). Twin: `kernels/_cast_torch.py`.
"""

from __future__ import annotations

from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.kernels._triton import constant, jit, tl
from narrowgauge.kernels.layout import RF8_THRESHOLDS
from narrowgauge.kernels.tables import CODES, LEVEL_CODES, LEVELS, THRESHOLDS, VALUES

ONE_RANDOM = constant(1 << RANDOM_BITS)
RANDOM_SHIFT = constant(32 - RANDOM_BITS)
RANDOM_WIDTH = constant(RANDOM_BITS)
ROUND_MAGIC = constant(8388608.0)  # 2^23: a sum with it is rounded to an integer, ties to even
ROUND_MAGIC_BITS = constant(0x4B000000)
TINY = constant(SMALLEST_SCALE)
LARGEST_FLOAT = constant(3.4028234663852886e38)
RF8_FIELD_0 = constant(RF8_THRESHOLDS[0])
RF8_FIELD_1 = constant(RF8_THRESHOLDS[1])
RF8_FIELD_2 = constant(RF8_THRESHOLDS[2])
RF8_FIELD_3 = constant(RF8_THRESHOLDS[3])
RF8_FIELD_4 = constant(RF8_THRESHOLDS[4])
RF8_FIELD_5 = constant(RF8_THRESHOLDS[5])
RF8_FIELD_6 = constant(RF8_THRESHOLDS[6])
AT_THRESHOLDS = constant(THRESHOLDS)
AT_CODES = constant(CODES)
AT_VALUES = constant(VALUES)
AT_LEVELS = constant(LEVELS)
AT_LEVEL_CODES = constant(LEVEL_CODES)


@jit
def bits_of(x):
    """float32 as int32."""
    return x.to(tl.int32, bitcast=True)


@jit
def float_of(bits):
    """int32 as float32."""
    return bits.to(tl.float32, bitcast=True)


@jit
def rounding_bits(seed, offset, index):
    """RANDOM_BITS random bits per element; index: int64 element index (see formats/philox.py)."""
    block = index >> 2
    low = block.to(tl.uint32)
    high = (block >> 32).to(tl.uint32)
    stream = tl.zeros_like(index) + offset
    w0, w1, w2, w3 = tl.philox(seed, low, high, stream.to(tl.uint32), (stream >> 32).to(tl.uint32))
    word = index & 3
    chosen = tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))
    return (chosen >> RANDOM_SHIFT).to(tl.int32)


@jit
def round_magnitude(s, random, STOCHASTIC: tl.constexpr):
    """Non-negative float32 s < 2^22 to int32: ties to even, or up with probability frac (random: rounding_bits)."""
    if STOCHASTIC:
        low = tl.floor(s)
        frac = ((s - low) * ONE_RANDOM).to(tl.int32)
        return low.to(tl.int32) + ((frac + random) >> RANDOM_WIDTH)
    # The sum's low bits are the integer: conversions are slow.
    return bits_of(s + ROUND_MAGIC) - ROUND_MAGIC_BITS


@jit
def encode_float(y, random, F: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Saturating minifloat codes (int32) of float32 y, which is not NaN."""
    a = tl.minimum(tl.abs(y), F.max)
    exponent = tl.maximum(bits_of(a) & 0x7F800000, (F.emin + 127) << 23)
    s = a * float_of((254 + F.mantissa_bits - (exponent >> 23)) << 23)
    base = (exponent - ((F.emin + 127) << 23)) >> (23 - F.mantissa_bits)
    if F.mantissa_bits == 0 and not STOCHASTIC:
        # One bit of precision: "even" is the parity of the code, not of the significand, which is always 1.
        low = tl.floor(s)
        code = base + low.to(tl.int32)
        frac = s - low
        code += ((frac > 0.5) | ((frac == 0.5) & ((code & 1) == 1))).to(tl.int32)
    else:
        code = base + round_magnitude(s, random, STOCHASTIC)
    if F.flush:
        code = tl.where(code < (1 << F.mantissa_bits), 0, code)
    negative = bits_of(y) < 0
    if F.sign_bit == 0:
        return tl.where(negative, 0, code)
    if F.negative_zero:
        return code | tl.where(negative, F.sign_bit, 0)
    return code | tl.where(negative & (code != 0), F.sign_bit, 0)


@jit
def encode_int(y, random, F: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Saturating integer codes (int32) of float32 y, which is not NaN."""
    step: tl.constexpr = 2.0 ** (-F.fraction_bits)
    scaled = tl.minimum(tl.maximum(y, F.min_code * step), F.max_code * step) * (1.0 / step)
    code = round_magnitude(tl.abs(scaled), random, STOCHASTIC)
    return tl.where(scaled < 0, -code, code)


@jit
def encode_rf8(y, random, F: tl.constexpr, STOCHASTIC: tl.constexpr):
    """RF8 codes (int32) of float32 y, which is not NaN; the published rule, or stochastic between the levels."""
    a = tl.minimum(tl.abs(y), F.max)
    bits = bits_of(a)
    field = bits & 0x7FFFFF
    row = (bits >> 23) - 127 + F.bias
    if STOCHASTIC:
        # Levels of an octave in sixteenths: 16 17 18 20 24 28 30 32.
        sixteenths = field >> 19
        level = (sixteenths >= 1).to(tl.int32) + (sixteenths >= 2) + (sixteenths >= 4) + (sixteenths >= 8)
        level += (sixteenths >= 12).to(tl.int32) + (sixteenths >= 14)
        low = tl.where(level < 3, level, tl.where(level < 5, 4 * (level - 2), 2 * level + 2))
        log_step = tl.where(level < 2, 0, tl.where(level == 2, 1, tl.where(level < 5, 2, 1)))
        # (m - low) / step in units of 2^-24; sixteenths are 2^19 mantissa units.
        frac = ((field - (low << 19)) << 5) >> log_step
        level += (frac + random) >> RANDOM_WIDTH
        code = row * 8 + 4 + level + (level >= 4).to(tl.int32)
        # Below the smallest value 3 · 2^(-2 - bias) the interval reaches to zero: thirds are taken on integers.
        SMALLEST: tl.constexpr = 3.0 * 2.0 ** (-2 - F.bias)
        tiny_frac = (tl.minimum(a, SMALLEST) * (2.0 ** (26 + F.bias))).to(tl.int32) // 3
        code = tl.where(a < SMALLEST, (tiny_frac + random) >> RANDOM_WIDTH, code)
    else:
        # By sign bits: sums of comparisons take the compiler through memory.
        code = row * 8 + 11 + ((field - RF8_FIELD_0) >> 31) + ((field - RF8_FIELD_1) >> 31)
        code += ((field - RF8_FIELD_2) >> 31) + 2 * ((field - RF8_FIELD_3) >> 31) + ((field - RF8_FIELD_4) >> 31)
        code += ((field - RF8_FIELD_5) >> 31) + ((field - RF8_FIELD_6) >> 31) + 1
        code = tl.where(code < 1, (a >= 0.375 * 2.0 ** (-F.bias)).to(tl.int32), code)
    return code | tl.where((bits_of(y) < 0) & (code != 0), 0x80, 0)


@jit
def ordered(bits):
    """Ordered pattern of the bits of a float32, or the bits of an ordered pattern (it is its own inverse)."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@jit
def search(table_ptr, pattern, STEPS: tl.constexpr):
    """How many of 2^STEPS - 1 ascending int32 entries do not exceed `pattern`: a binary search without branches."""
    rank = tl.zeros_like(pattern)
    for step in tl.static_range(STEPS):
        half = (1 << (STEPS - 1)) >> step
        rank += tl.where(tl.load(table_ptr + rank + (half - 1)) <= pattern, half, 0)
    return rank


@jit
def encode_table(y, random, table_ptr, F: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Codes (int32) of float32 y, which is not NaN, by the blob of `kernels/tables.py`, whose formulas these are."""
    if STOCHASTIC:
        lowest = tl.load(table_ptr + AT_LEVELS)
        highest = tl.load(table_ptr + (AT_LEVELS + F.levels - 1))
        pattern = tl.minimum(tl.maximum(ordered(bits_of(tl.where(y == 0.0, 0.0, y))), lowest), highest)
        low = search(table_ptr + (AT_LEVELS + 1), pattern, F.level_steps)
        high = tl.minimum(low + 1, F.levels - 1)
        below = float_of(ordered(tl.load(table_ptr + AT_LEVELS + low))).to(tl.float64)
        above = float_of(ordered(tl.load(table_ptr + AT_LEVELS + high))).to(tl.float64)
        x = float_of(ordered(pattern)).to(tl.float64)
        step = tl.where(high > low, above - below, 1.0)
        if F.mirrored:
            negative = bits_of(y) < 0
            frac = tl.where(negative, above - x, x - below) / step
            moves = ((tl.floor(frac * ONE_RANDOM).to(tl.int32) + random) >> RANDOM_WIDTH) != 0
            rank = tl.where(moves != negative, high, low)
            # No zero between the two: a magnitude below the smallest becomes the smallest.
            rank = tl.where((below < 0.0) & (above > 0.0), tl.where(negative, low, high), rank)
            zero = tl.load(table_ptr + AT_LEVELS + rank) == 0
            code = tl.where(negative & zero, F.zero_code, tl.load(table_ptr + AT_LEVEL_CODES + rank))
        else:
            # The quotient of a value just below its upper level may be rounded to 1.
            frac = tl.minimum(tl.floor((x - below) / step * ONE_RANDOM).to(tl.int32), ONE_RANDOM - 1)
            moves = ((frac + random) >> RANDOM_WIDTH) != 0
            code = tl.load(table_ptr + AT_LEVEL_CODES + tl.where(moves, high, low))
    else:
        code = tl.load(table_ptr + AT_CODES + search(table_ptr + AT_THRESHOLDS, ordered(bits_of(y)), F.steps))
    return code


@jit
def encode(y, random, table_ptr, F: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Codes (int32) of float32 y. F: a `Layout`; table_ptr: its blob where the kind is "table", else None.
    NaN gives the positive NaN code, 0 in formats without one."""
    isnan = y != y
    safe = tl.where(isnan, 0.0, y)
    if F.kind == "float":
        code = encode_float(safe, random, F, STOCHASTIC)
    elif F.kind == "int":
        code = encode_int(safe, random, F, STOCHASTIC)
    elif F.kind == "table":
        code = encode_table(safe, random, table_ptr, F, STOCHASTIC)
    else:
        code = encode_rf8(safe, random, F, STOCHASTIC)
    return tl.where(isnan, max(F.nan_code, 0), code)


@jit
def decode(code, table_ptr, F: tl.constexpr):
    """float32 values of codes (any integer type). table_ptr: as for `encode`."""
    c = code.to(tl.int32)
    if F.kind == "int":
        if F.sign_bit == 0:
            c = c & 0xFF
        return c.to(tl.float32) * float(2.0 ** (-F.fraction_bits))
    c = c & 0xFF
    if F.kind == "table":
        return float_of(tl.load(table_ptr + AT_VALUES + c))
    if F.kind == "float":
        magnitude = (c & (F.sign_bit - 1)) if F.sign_bit != 0 else c
        value = float_of(magnitude << (23 - F.mantissa_bits)) * float(2.0 ** (127 - F.bias))
        if F.has_inf:
            value = tl.where(magnitude == F.max_code + 1, float("inf"), value)
        value = tl.where(magnitude > F.max_code + (1 if F.has_inf else 0), float("nan"), value)
        isnan = c == F.nan_code
    else:
        magnitude = c & 0x7F
        distance = (magnitude & 7) - 4
        step = tl.where(distance == 0, 0, (1 << tl.maximum(tl.abs(distance) - 1, 0)))
        sixteenths = 16 + tl.where(distance < 0, -step, step)
        value = sixteenths.to(tl.float32) * float_of(((magnitude >> 3) + (127 - 4 - F.bias)) << 23)
        value = tl.where(magnitude == 0, 0.0, value)
        isnan = ((magnitude & 7) == 0) & (c != 0)
    if F.sign_bit != 0:
        # By the sign bit: a unary minus is 0 - x here, which loses the sign of zero.
        value = float_of(bits_of(value) | tl.where((c & F.sign_bit) != 0, -2147483648, 0))
    return tl.where(isnan, float("nan"), value)


@jit
def is_finite(x):
    """Neither NaN nor infinite."""
    return (bits_of(x) & 0x7F800000) != 0x7F800000


@jit
def divide(x, y):
    """Correctly rounded float32 quotient (plain `/` is an approximation on GPUs)."""
    return tl.div_rn(x, y)


@jit
def amax_scale(amax, LARGEST: tl.constexpr, FLOOR: tl.constexpr, ZERO: tl.constexpr):
    """amax / LARGEST, between FLOOR and the largest float32; ZERO for zero, NaN for a non-finite amax."""
    scale = tl.minimum(tl.maximum(divide(amax, tl.zeros_like(amax) + LARGEST), FLOOR), LARGEST_FLOAT)
    scale = tl.where(amax == 0.0, ZERO, scale)
    return tl.where(is_finite(amax), scale, float("nan"))


@jit
def scale_exponent(amax, CARRY: tl.constexpr, EMAX: tl.constexpr, LOWEST: tl.constexpr, HIGHEST: tl.constexpr,
                   ZERO: tl.constexpr):  # fmt: skip
    """Exponent (int32) of the power-of-two scale of finite amax, ZERO where it is 0; see formats/scaling.py."""
    subnormal = amax < TINY
    bits = bits_of(tl.where(subnormal, amax * 16777216.0, amax))
    # Mantissa and exponent apart: their sum with CARRY could pass 2^31.
    carried = ((bits & 0x7FFFFF) + CARRY) >> 23
    exponent = (bits >> 23) + carried - 127 - EMAX - tl.where(subnormal, 24, 0)
    return tl.where(amax == 0.0, ZERO, tl.minimum(tl.maximum(exponent, LOWEST), HIGHEST))


@jit
def power_of_two(exponent):
    """2^exponent as float32 for -127 <= exponent <= 127 (2^-127 is subnormal)."""
    normal = float_of((tl.maximum(exponent, -126) + 127) << 23)
    return tl.where(exponent < -126, float_of(tl.zeros_like(exponent) + 0x400000), normal)


@jit
def e8m0_value(code):
    """2^(code - 127) as float32 of E8M0 codes (int32), NaN of 255."""
    return tl.where(code == 0xFF, float("nan"), power_of_two(code - 127))


@jit
def inverse_scale(scale):
    """1 / scale; 0 where the scale is zero or NaN, so that the group's codes are those of zero (or NaN)."""
    usable = (scale > 0.0) & is_finite(scale)
    return tl.where(usable, divide(tl.zeros_like(scale) + 1.0, tl.where(usable, scale, 1.0)), 0.0)


@jit
def round_to_bfloat16(x):
    """float32 rounded to nearest-even at 8 significant bits (Triton's interpreter truncates the cast that follows)."""
    bits = bits_of(x)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(x != x, x, float_of(rounded))


@jit
def round_to_bfloat16_by(x, halves):
    """float32 rounded stochastically at 8 significant bits: up where the bits that are lost and `halves` carry."""
    rounded = float_of((bits_of(x) + halves) & -65536)
    return tl.where(is_finite(x), rounded, x)
