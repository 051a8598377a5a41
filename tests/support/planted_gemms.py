"""GEMMs with one fault each, in numpy: what `check_gemm` has to find and to name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from narrowgauge.formats import BlockFormat, get, parse
from narrowgauge.formats.tiles import spread
from narrowgauge.numerics.statistics import round_significand, truncate_significand


@dataclass(frozen=True)
class Gemm:
    """out = (dec(a) · s_a) @ (dec(b) · s_b).T + bias in float32; a subclass gets one step wrong."""

    a_scheme: str
    b_scheme: str

    def __call__(self, a: Any, a_scale: Any, b: Any, b_scale: Any, bias: Any = None) -> Any:
        x = self.operand(a, a_scale, parse(self.a_scheme))
        y = self.operand(b, b_scale, parse(self.b_scheme))
        out = self.multiply(x.astype(np.float32), y.astype(np.float32))
        return self.finish(self.add(out, bias))

    def operand(self, codes: Any, scale: Any, spec: Any) -> Any:
        return self.decode(codes, spec) * self.grid(self.factors(scale, spec), spec, codes.shape)

    def decode(self, codes: Any, spec: Any) -> Any:
        return spec.element.decode(codes)

    def factors(self, scale: Any, spec: Any) -> Any:
        fmt = spec.format
        return (fmt.scales(scale) if isinstance(fmt, BlockFormat) else scale).astype(np.float64)

    def grid(self, factors: Any, spec: Any, shape: tuple[int, int]) -> Any:
        return spread(factors, spec.tile, shape)

    def multiply(self, x: Any, y: Any) -> Any:
        return x @ y.T

    def add(self, out: Any, bias: Any) -> Any:
        return out if bias is None else out + bias

    def finish(self, out: Any) -> Any:
        return out.astype(np.float32)


class AccumulatesInBfloat16(Gemm):
    bits = 8

    def multiply(self, x: Any, y: Any) -> Any:
        total = np.zeros((x.shape[0], y.shape[0]))
        for k in range(x.shape[1]):
            total = round_significand(total + np.outer(x[:, k], y[:, k]).astype(np.float64), self.bits)
        return total.astype(np.float32)


class AccumulatesInFloat16(AccumulatesInBfloat16):
    bits = 11


class Tf32Operands(Gemm):
    def multiply(self, x: Any, y: Any) -> Any:
        return round_significand(x, 11).astype(np.float32) @ round_significand(y, 11).astype(np.float32).T


class DropsKTail(Gemm):
    def multiply(self, x: Any, y: Any) -> Any:
        k = x.shape[1] - x.shape[1] % 32
        return x[:, :k] @ y[:, :k].T


class SkipsMTail(Gemm):
    """The last rows of a tile that overruns are never written: `out` keeps what its memory held."""

    def multiply(self, x: Any, y: Any) -> Any:
        out = np.full((x.shape[0], y.shape[0]), np.nan, np.float32)
        m = x.shape[0] - x.shape[0] % 16
        out[:m] = x[:m] @ y.T
        return out


class ForgetsToZeroTheTail(Gemm):
    def multiply(self, x: Any, y: Any) -> Any:
        out = x @ y.T
        n = y.shape[0]
        out[:, n - n % 16 :] = 0.0
        return out


class NeighbourScale(Gemm):
    def grid(self, factors: Any, spec: Any, shape: tuple[int, int]) -> Any:
        index = np.clip(np.arange(factors.shape[1]) + 1, 0, factors.shape[1] - 1)
        return spread(factors[:, index], spec.tile, shape)


class FirstScaleOnly(Gemm):
    def grid(self, factors: Any, spec: Any, shape: tuple[int, int]) -> Any:
        return spread(np.broadcast_to(factors[:, :1], factors.shape), spec.tile, shape)


class InvertedScale(Gemm):
    def grid(self, factors: Any, spec: Any, shape: tuple[int, int]) -> Any:
        return spread(1.0 / factors, spec.tile, shape)


class ScaleTwice(Gemm):
    def grid(self, factors: Any, spec: Any, shape: tuple[int, int]) -> Any:
        return spread(factors**2, spec.tile, shape)


class ForgetsScaleOfA(Gemm):
    def operand(self, codes: Any, scale: Any, spec: Any) -> Any:
        right = super().operand(codes, scale, spec)
        return self.decode(codes, spec) if spec == parse(self.a_scheme) else right


class StaleTranspose(Gemm):
    """Reads the memory of b, [N, K], as [K, N]."""

    def decode(self, codes: Any, spec: Any) -> Any:
        if spec == parse(self.b_scheme):
            codes = np.ascontiguousarray(codes).reshape(codes.shape[::-1]).T
        return spec.element.decode(codes)


class IgnoresStrides(Gemm):
    """Takes a column-major operand for a row-major one."""

    def decode(self, codes: Any, spec: Any) -> Any:
        if codes.size and codes.T.flags.c_contiguous:
            codes = np.ascontiguousarray(codes.T).reshape(codes.shape)
        return spec.element.decode(codes)


class NotDecoded(Gemm):
    def decode(self, codes: Any, spec: Any) -> Any:
        return codes.astype(np.float64) if spec == parse(self.a_scheme) else spec.element.decode(codes)


class DecodesAsFnuz(Gemm):
    def decode(self, codes: Any, spec: Any) -> Any:
        return get("e4m3fnuz").decode(codes)


class FlushesSubnormals(Gemm):
    def decode(self, codes: Any, spec: Any) -> Any:
        values = spec.element.decode(codes)
        return np.where(np.abs(values) < spec.element.smallest_normal, 0.0, values)


class NoBias(Gemm):
    def add(self, out: Any, bias: Any) -> Any:
        return out


class BiasTwice(Gemm):
    def add(self, out: Any, bias: Any) -> Any:
        return out + 2 * bias


class TruncatesOutput(Gemm):
    def finish(self, out: Any) -> Any:
        return truncate_significand(out.astype(np.float64), 8).astype(np.float32)


class RoundsOutputTwice(Gemm):
    def finish(self, out: Any) -> Any:
        return round_significand(out.astype(np.float64), 8).astype(np.float32)


class LosesNan(Gemm):
    def finish(self, out: Any) -> Any:
        return np.nan_to_num(out).astype(np.float32)


class LeaksNan(Gemm):
    """A NaN spreads to all that the same tile of 32 rows computes."""

    def finish(self, out: Any) -> Any:
        out = out.astype(np.float32)
        for start in range(0, out.shape[0], 32):
            if np.isnan(out[start : start + 32]).any():
                out[start : start + 32] = np.nan
        return out


class HalvesTheResult(Gemm):
    def finish(self, out: Any) -> Any:
        return (0.5 * out).astype(np.float32)


class IntegerGemm(Gemm):
    """Integer sums that wrap at `bits` bits, then the scales of rows."""

    bits = 64

    def __call__(self, a: Any, a_scale: Any, b: Any, b_scale: Any, bias: Any = None) -> Any:
        sums = a.astype(np.int64) @ b.astype(np.int64).T
        low = -(2 ** (self.bits - 1))
        kept = sums if self.bits == 64 else (sums - low) % 2**self.bits + low
        return (kept * a_scale.astype(np.float64) * b_scale.astype(np.float64).T).astype(np.float32)


class WrapsAt16Bits(IntegerGemm):
    bits = 16


class WrapsAt32Bits(IntegerGemm):
    bits = 32


class UnsignedCodes(IntegerGemm):
    def __call__(self, a: Any, a_scale: Any, b: Any, b_scale: Any, bias: Any = None) -> Any:
        return super().__call__(a.view(np.uint8), a_scale, b, b_scale, bias)


class OverwritesItsOperand(Gemm):
    def decode(self, codes: Any, spec: Any) -> Any:
        values = spec.element.decode(codes)
        codes[...] = 0
        return values


class Unrepeatable(Gemm):
    """Adds in another order at each call."""

    calls: ClassVar[list[None]] = []

    def multiply(self, x: Any, y: Any) -> Any:
        order = np.random.default_rng(len(self.calls)).permutation(x.shape[1])
        self.calls.append(None)
        return x[:, order] @ y[:, order].T


BLOCKS = ("e4m3fn/1x128", "e4m3fn/128x128")
ROWS = ("e4m3fn/row", "e4m3fn/row")
INTEGERS = ("int8/row", "int8/row")


@dataclass(frozen=True)
class Planted:
    """A faulty GEMM, the kind by which the report has to name it, and how to check it."""

    kind: str
    gemm: Callable[..., Any]
    schemes: tuple[str, str]
    options: dict[str, Any] = field(default_factory=dict)


def planted() -> list[Planted]:
    """Every fault."""

    def fault(kind: str, gemm: type[Gemm], schemes: tuple[str, str] = BLOCKS, **options: Any) -> Planted:
        return Planted(kind, gemm(*schemes), schemes, options)

    return [
        fault("accumulated in bfloat16", AccumulatesInBfloat16),
        fault("accumulated in float16", AccumulatesInFloat16),
        fault("k tail dropped", DropsKTail),
        fault("k tail dropped", DropsKTail, ("mxfp8_e4m3", "mxfp4")),
        fault("uninitialised output", SkipsMTail),
        fault("n tail wrong", ForgetsToZeroTheTail, ROWS),
        fault("neighbour's scale", NeighbourScale),
        fault("neighbour's scale", NeighbourScale, ("mxfp8_e4m3", "mxfp8_e4m3")),
        fault("one scale for all blocks", FirstScaleOnly),
        fault("scale inverted", InvertedScale, ROWS),
        fault("scale applied twice", ScaleTwice),
        fault("scale missing", ForgetsScaleOfA, ("e4m3fn/row", "e5m2")),
        fault("stale transpose", StaleTranspose),
        fault("stale transpose", IgnoresStrides, ROWS),
        fault("operand not dequantised", NotDecoded, ("e4m3fn/row", "e5m2")),
        fault("codes of another format", DecodesAsFnuz, ROWS),
        fault("subnormals flushed", FlushesSubnormals, ROWS),
        fault("bias missing", NoBias, ROWS, bias=True),
        fault("bias added twice", BiasTwice, ROWS, bias=True),
        fault("output truncated", TruncatesOutput, ROWS, out_dtype="bfloat16"),
        fault("output rounded to bfloat16", RoundsOutputTwice, ROWS),
        fault("non-finite lost", LosesNan),
        fault("non-finite leak", LeaksNan),
        fault("wrong factor", HalvesTheResult, ROWS),
        fault("integer overflow", WrapsAt16Bits, INTEGERS, accumulate="int32"),
        fault("integer overflow", WrapsAt32Bits, INTEGERS, accumulate="int32", long_k=150_000, shapes=()),
        fault("integer wrap", UnsignedCodes, INTEGERS),
        fault("operand overwritten", OverwritesItsOperand),
        fault("not deterministic", Unrepeatable, ROWS),
    ]
