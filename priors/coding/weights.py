"""What of a tensor is coded, and how it comes back.

    step      q = round(2^n · θ), half to even, in integers; θ ≈ q · 2^-n            (BackSlash, Algorithm 2)
    scheme    codes and scales of any scheme of at most 8 bits; codes and integer scales are coded, others kept
    integers  a tensor of integers, exactly
    raw       the bytes of the tensor

A tensor of fewer than two axes is raw unless asked otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels.tensor import QuantizedTensor, quantize
from narrowgauge.priors.coding.coder import Coder, decode
from narrowgauge.priors.coding.record import SIGNED, Coded, narrowest

Part: TypeAlias = Tensor | Coded
"""A tensor as it is, or what a coder made of one."""

DTYPES = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool", "complex64",
)  # fmt: skip
"""What is stored, by torch's names."""
INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
FLOATS = ("float64", "float32", "float16", "bfloat16")
MAX_STEP_BITS = 1022
_LARGEST = 2.0**62
_ONE_FACTOR = 126


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("torch.")


def dtype_called(name: Any) -> torch.dtype:
    """The dtype of a file; ValueError for names that no file has."""
    if name not in DTYPES:
        raise ValueError(f"dtype: got {name!r:.80}, accepted: {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


@dataclass(frozen=True)
class Plan:
    """How the tensors of a model are coded: step_bits is n of the step, scheme that of the codes; with neither, tensors
    of floats are kept and integers alone are coded. everything: also tensors of fewer than two axes.

    ValueError for both a step and a scheme, and for schemes that draw random numbers.
    """

    coder: Coder
    step_bits: int | None = None
    scheme: str | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        if self.step_bits is not None:
            if self.scheme is not None:
                raise ValueError("scheme: got a scheme and step_bits, accepted: one of them")
            check_step_bits(self.step_bits)
        if self.scheme is not None:
            spec = parse(self.scheme)
            if spec.stochastic:
                raise ValueError(f"scheme: got {self.scheme!r}, accepted: schemes without '+sr'")
            object.__setattr__(self, "scheme", str(spec))

    def kind(self, tensor: Tensor) -> str:
        """How this tensor is coded: step, scheme, integers or raw."""
        name = dtype_name(tensor.dtype)
        if tensor.dim() < 2 and not self.everything:
            return "raw"
        if name in INTEGERS:
            return "integers"
        if name not in FLOATS or (self.step_bits is None and self.scheme is None):
            return "raw"
        return "step" if self.scheme is None else "scheme"


def check_step_bits(bits: Any) -> None:
    """TypeError or ValueError for what is no n of a step 2^-n."""
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"step_bits: got {type(bits).__name__}, accepted: an integer")
    if abs(bits) > MAX_STEP_BITS:
        raise ValueError(f"step_bits: got {bits}, accepted: -{MAX_STEP_BITS} to {MAX_STEP_BITS}")


def to_parts(tensor: Tensor, plan: Plan) -> tuple[dict[str, Any], dict[str, Part]]:
    """(entry of the description, parts) of a tensor. ValueError for values that the plan cannot code."""
    kind = plan.kind(tensor)
    plain = tensor.detach().to("cpu").contiguous()
    entry = {"kind": kind, "shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype)}
    if entry["dtype"] not in DTYPES:
        raise TypeError(f"dtype: got {entry['dtype']}, accepted: {', '.join(DTYPES)}")
    if kind == "raw":
        return entry, {"values": plain}
    if kind == "integers":
        return entry, {"values": plan.coder.encode(plain.numpy())}
    if plan.scheme is None:
        assert plan.step_bits is not None
        return entry | {"step_bits": plan.step_bits}, {"values": plan.coder.encode(stepped(plain, plan.step_bits))}
    if not bool(plain.isfinite().all()):
        raise ValueError("values: got NaN or infinities, accepted: finite numbers")
    q = quantize(plain, plan.scheme)
    parts: dict[str, Part] = {"values": plan.coder.encode(q.codes.contiguous().numpy())}
    parts["scale"] = q.scale.contiguous() if q.scale.is_floating_point() else plan.coder.encode(q.scale.numpy())
    if q.scheme.two_level:
        parts["outer"] = q.outer
    return entry | {"scheme": q.text}, parts


def stepped(tensor: Tensor, bits: int) -> np.ndarray[Any, np.dtype[Any]]:
    """round(2^bits · θ), half to even, in the narrowest type that holds all. ValueError for NaN and beyond 2^62."""
    wide = tensor.double() if tensor.dtype == torch.float64 else tensor.float()
    scaled = _scaled(wide, bits).round_()
    low, high = (side.item() for side in scaled.aminmax()) if scaled.numel() else (0.0, 0.0)
    largest = max(-low, high)
    if not largest <= _LARGEST:
        raise ValueError(f"values: the largest is {largest:g} steps of 2^{-bits}, accepted: finite, at most 2^62")
    dtype = torch.int32 if largest < 2.0**31 else torch.int64
    return narrowest(scaled.to(dtype).reshape(-1).numpy(), SIGNED)


def from_parts(entry: Mapping[str, Any], parts: Mapping[str, Part]) -> Tensor | QuantizedTensor:
    """What `to_parts` was given, up to quantisation; codes and scales of a scheme as a `QuantizedTensor`.

    ValueError for parts that do not fit the entry.
    """
    kind, dtype, shape = entry["kind"], dtype_called(entry["dtype"]), tuple(entry["shape"])
    if kind == "raw":
        return _shaped(_plain(parts["values"]), shape, dtype)
    codes = _plain(parts["values"])
    if kind == "integers":
        return _shaped(codes, shape, dtype)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: got {entry['dtype']}, accepted: {', '.join(FLOATS)}")
    if kind == "step":
        check_step_bits(entry["step_bits"])
        return _shaped(unstepped(codes, entry["step_bits"], dtype), shape, dtype)
    if kind != "scheme":
        raise ValueError(f"kind: got {kind!r:.80}, accepted: step, scheme, integers, raw")
    spec = parse(entry["scheme"])
    scale = _plain(parts["scale"]).reshape(spec.scale_shape(shape))
    outer = _plain(parts["outer"]).reshape(()) if spec.two_level else scale.new_ones((), dtype=torch.float32)
    check_codes(codes, spec)
    return QuantizedTensor(codes.reshape(shape), scale, outer, str(spec), dtype)


def check_codes(codes: Tensor, spec: Scheme) -> None:
    """ValueError for codes beyond the width of the scheme's elements."""
    bits = spec.element.bits
    if codes.dtype == torch.uint8 and codes.numel() and int(codes.max()) >> bits:
        raise ValueError(f"codes: got {int(codes.max())}, accepted by {spec}: codes of {bits} bits")


def unstepped(steps: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """q · 2^-bits, rounded once to `dtype`; exact for what `stepped` made of a tensor of that dtype, subnormal values
    and overflow apart."""
    narrow = steps.dtype in (torch.int8, torch.int16) and dtype != torch.float64
    return _scaled(steps.float() if narrow else steps.double(), -bits).to(dtype)


def _scaled(wide: Tensor, bits: int) -> Tensor:
    """wide · 2^bits as a new tensor; in two steps where the factor is beyond the range of float32."""
    if abs(bits) <= _ONE_FACTOR:
        return wide * math.ldexp(1.0, bits)
    half = bits // 2
    return wide * math.ldexp(1.0, half) * math.ldexp(1.0, bits - half)


def _plain(part: Part) -> Tensor:
    return part if isinstance(part, Tensor) else torch.from_numpy(decode(part))


def _shaped(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if tensor.dtype != dtype:
        raise ValueError(f"dtype: got {tensor.dtype}, the description says {dtype}")
    if tensor.numel() != math.prod(shape):
        raise ValueError(f"shape: {tensor.numel()} values, the description says {shape}")
    return tensor.reshape(shape)
