"""What an operator carries: its implementations, when each can serve, samples, cost and error bound.

One `register(Op(...))` feeds PyTorch's dispatcher (schema, fake, CPU, CUDA), the conformance tests, the bench, the
compile matrix and `narrowgauge ops`. Asked for an implementation that cannot serve, an op says why; nothing falls back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels._triton import HAS_TRITON

LIBRARY = torch.library.Library("narrowgauge", "DEF")


@dataclass(frozen=True)
class Sample:
    """One named call of an op: positional arguments in schema order."""

    name: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Cost:
    """Floating-point operations and bytes of memory traffic that one call needs at least."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Exact:
    """Every implementation gives the same bits."""


@dataclass(frozen=True)
class ErrorBound:
    """|actual - reference| <= tolerance(*args), elementwise (a tensor broadcastable to the outputs, or a number).

    values(args, outputs): what is compared, where it is not the outputs themselves, as for codes whose neighbours in
    value are no neighbours in code.
    """

    tolerance: Callable[..., Any]
    values: Callable[[Sequence[Any], Sequence[Tensor]], Sequence[Tensor]] | None = None


@dataclass(frozen=True)
class CompileCase:
    """One ahead-of-time compilation of a Triton kernel: `signature` maps argument → Triton type, `constants` the rest.

    expect: target (such as "sm_90") → text that must be in the assembly, the tensor-core instruction for instance.
    load_bytes: what threads read at a time, at least, where no tensor memory accelerator reads for them.
    options: further ones of the launch, such as ("enable_fp_fusion", False).
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    expect: tuple[tuple[str, str], ...] = ()
    targets: tuple[str, ...] = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
    load_bytes: int = 16
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Op:
    """An operator `torch.ops.narrowgauge.<name>`.

    reference: the obviously right version (numpy, or float64 torch), called with the same arguments; returns arrays.
    torch_impl serves the CPU, triton_impl CUDA devices (and the CPU in Triton's interpreter, for the tests);
    unsupported(*args) gives the reason why the Triton implementation cannot serve a call, or None.
    mutates: names of arguments that are written.
    """

    name: str
    schema: str
    reference: Callable[..., Any]
    torch_impl: Callable[..., Any]
    triton_impl: Callable[..., Any]
    fake: Callable[..., Any]
    samples: Callable[[np.random.Generator, str], Iterator[Sample]]
    cost: Callable[..., Cost]
    bound: Exact | ErrorBound
    compile_cases: Callable[[], Iterator[CompileCase]]
    unsupported: Callable[..., str | None] = lambda *args: None
    mutates: tuple[str, ...] = ()

    def __call__(self, *args: Any) -> Any:
        return getattr(torch.ops.narrowgauge, self.name)(*args)

    def implementation(self, name: str) -> Callable[..., Any]:
        """The function called `name`: reference, torch or triton. ValueError otherwise or where it cannot run."""
        table = {"reference": self.reference, "torch": self.torch_impl, "triton": self.triton_impl}
        if name not in table:
            raise ValueError(f"implementation: {self.name} has {', '.join(table)}; got {name!r}")
        if name == "triton" and not HAS_TRITON:
            raise ValueError(f"implementation: {self.name} 'triton' needs the package triton, which is not installed")
        return table[name]

    def home(self, device: torch.device | str, *args: Any) -> str:
        """Which implementation the dispatcher runs on `device`; ValueError where none can."""
        kind = torch.device(device).type
        if kind == "cpu":
            return "torch"
        if kind == "cuda" and HAS_TRITON:
            return "triton"
        reason = "the package triton is not installed" if kind == "cuda" else f"{kind} devices have none"
        raise ValueError(f"device: no implementation of {self.name} on {device}: {reason}")


OPS: dict[str, Op] = {}


def in_own_precision(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """`function` out of reach of autocast, which would take the float32 products inside of it for the model's own."""

    @wraps(function)
    def call(*args: Any) -> Any:
        if not torch.is_autocast_enabled(kind):
            return function(*args)
        with torch.autocast(kind, enabled=False):
            return function(*args)

    return call


def gpu_of_call(args: Sequence[Any]) -> int | None:
    """Number of the GPU on which the arguments of a call are, those in lists as well; None where none is on one."""
    for arg in args:
        if isinstance(arg, Tensor) and arg.is_cuda:
            return arg.device.index
        if isinstance(arg, list | tuple) and (number := gpu_of_call(arg)) is not None:
            return number
    return None


def register(op: Op) -> Op:
    """Defines the op in PyTorch's dispatcher and enters it in `OPS`."""

    def cuda(*args: Any) -> Any:
        reason = op.unsupported(*args)
        if reason is not None:
            raise ValueError(f"{op.name}: {reason}")
        number = gpu_of_call(args)
        # Triton launches on the current device, whatever device its arguments are on.
        if number is None or number == torch.cuda.current_device():
            return op.implementation("triton")(*args)
        with torch.cuda.device(number):
            return op.implementation("triton")(*args)

    LIBRARY.define(op.name + op.schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(op.name, in_own_precision(op.torch_impl, "cpu"), "CPU")
    LIBRARY.impl(op.name, in_own_precision(cuda, "cuda"), "CUDA")
    torch.library.register_fake(f"narrowgauge::{op.name}", op.fake, lib=LIBRARY)
    OPS[op.name] = op
    return op


def get_op(name: str) -> Op:
    """The operator called `name`; ValueError names the nearest."""
    if name not in OPS:
        near = get_close_matches(name, OPS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(OPS)}"
        raise ValueError(f"op: unknown operator {name!r}{hint}")
    return OPS[name]
