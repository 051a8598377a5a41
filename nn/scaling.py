"""Scales with a memory: what a tensor is divided by comes from the tensors before it, so that it is known beforehand.

    kind=value[+recent][+margin=m]

| text          | the scale of the next tensor                                                                      |
|---------------|---------------------------------------------------------------------------------------------------|
| `delayed=N`   | amax_scale(largest of the last N amax) · 2^margin; `+recent`: of the last one alone (delayed      |
|               | scaling as in TransformerEngine; arXiv 2209.05433)                                                |
| `hindsight=η` | amax_scale(r), r ← η·r + (1 - η)·amax (in-hindsight ranges, arXiv 2105.04246)                     |
| `autoflex`    | 2^e of int16, e predicted from the largest codes of the last 16 (Flexpoint, arXiv 1711.02213)     |
| `overflow=r`  | 2^e of an integer format, e one up where more than the share r of the values overflows, one down  |
|               | where it would not with half the range (dynamic fixed point, arXiv 1412.7024)                     |

amax_scale(a) = a / (the format's largest value), in float32, at least 2^-126. `narrowgauge.formats.Autoflex` and
`DynamicFixedPoint` are the definitions of the last two; what holds for a tensor of theirs, which rounds to nearest,
holds here. An amax of zero, NaN or infinity says nothing of the next tensor: it leaves the scale as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats import Format, IntFormat, get
from narrowgauge.formats.managed_exponent import FLEX_BITS
from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.kernels._scales_torch import amax_scale, power_of_two
from narrowgauge.nn.shared_exponents import (
    WINDOW,
    counted_exponent,
    fitting_exponent,
    initial_exponent,
    predicted_exponent,
)

KINDS = {"delayed": int, "hindsight": float, "autoflex": None, "overflow": float}
"""Kind → type of its value."""
WIDEST_INTEGER = 16
_FORM = "'kind=value[+recent][+margin=m]', for example 'delayed=1024'"
_TEXT = re.compile(r"(?P<kind>[a-z]+)(?:=(?P<value>[^+]+))?(?P<options>(?:\+[^+]+)*)")


@dataclass(frozen=True)
class Scaling:
    """kind: delayed, hindsight, autoflex or overflow; value: N, η or r, None for autoflex. recent, margin: of delayed
    scaling, see the module."""

    kind: str
    value: float | None = None
    recent: bool = False
    margin: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"scaling: unknown kind {self.kind!r}; accepted: {', '.join(KINDS)}")
        if self.kind == "delayed" and (self.value is None or self.value < 1 or self.value != int(self.value)):
            raise ValueError(f"delayed: got {self.value}, accepted: how many amax are kept, 1 or more, as delayed=1024")
        if self.kind == "hindsight" and (self.value is None or not 0 <= self.value < 1):
            raise ValueError(f"hindsight: got {self.value}, accepted: a momentum from 0 to below 1, as hindsight=0.9")
        if self.kind == "overflow" and (self.value is None or not 0 <= self.value < 1):
            raise ValueError(f"overflow: got {self.value}, accepted: a rate from 0 to below 1, as overflow=1e-4")
        if self.kind == "autoflex" and self.value is not None:
            raise ValueError(f"autoflex: takes no value, got {self.value}")
        if self.kind != "delayed" and (self.recent or self.margin):
            raise ValueError(f"scaling: recent and margin go with delayed, got {self.kind}")
        if not -64 <= self.margin <= 64:
            raise ValueError(f"margin: got {self.margin}, accepted: a power of two from -64 to 64")

    def __str__(self) -> str:
        text = self.kind
        if self.value is not None:
            text += f"={int(self.value)}" if self.kind == "delayed" else f"={self.value!r}"
        return text + ("+recent" if self.recent else "") + (f"+margin={self.margin}" if self.margin else "")


def parse_scaling(text: str | Scaling) -> Scaling:
    """The scaling of a text such as `delayed=1024` (a Scaling is returned as it is). ValueError says what the text
    cannot mean."""
    if isinstance(text, Scaling):
        return text
    if not isinstance(text, str):
        raise TypeError(f"scaling: expected a string or a Scaling, got {type(text).__name__}")
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"scaling: {text!r} is not {_FORM}")
    value = None if match["value"] is None else _number(match["value"], KINDS.get(match["kind"]), text)
    recent, margin = False, 0
    for option in filter(None, match["options"].split("+")):
        if option == "recent":
            recent = True
        elif option.startswith("margin="):
            margin = int(_number(option.removeprefix("margin="), int, text))
        else:
            raise ValueError(f"scaling: unknown option {option!r} in {text!r}; accepted: recent, margin=m")
    return Scaling(match["kind"], value, recent, margin)


def _number(text: str, kind: type[int] | type[float] | None, whole: str) -> float:
    try:
        return (kind or float)(text)
    except ValueError:
        raise ValueError(f"scaling: {text!r} in {whole!r} is no {'whole ' if kind is int else ''}number") from None


class ScaleState(nn.Module):
    """The scale of one kind of tensor (a layer's input, its gradient, …) under a scaling, for an element format.

    One step is a call, `state(x)`: the scale for x, float32 [], then x is recorded for the next one. `scale(x)` and
    `observe(x)` are the two halves. The first scale comes from its own tensor. All that is remembered are persistent
    buffers, and nothing is read back from the device, so that steps can be compiled and captured.

    again=True repeats a call, as activation checkpointing does when it computes a forward once more in the backward:
    the scale is that of the last recorded call, and nothing is recorded.
    """

    used: Tensor
    value: Tensor
    steps: Tensor
    history: Tensor
    range: Tensor
    exponent: Tensor
    filled: Tensor

    def __init__(
        self, scaling: str | Scaling, element: str | Format, *, device: torch.device | str | None = None
    ) -> None:
        """scaling: see `parse_scaling`. element: the format whose largest value an amax becomes. ValueError for
        formats that the scaling has no use for."""
        super().__init__()
        self.scaling = parse_scaling(scaling)
        self.element = get(element)
        _check_element(self.scaling, self.element)
        self._known = False

        def keep(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> None:
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device))

        keep("used")
        keep("value")
        keep("steps", dtype=torch.int64)
        if self.scaling.kind == "delayed":
            keep("history", int(self.scaling.value or 1))
        elif self.scaling.kind == "hindsight":
            keep("range")
        else:
            keep("exponent", dtype=torch.int32)
        if self.scaling.kind == "autoflex":
            keep("history", WINDOW, dtype=torch.float64)
            keep("filled", dtype=torch.int64)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forgets everything: for buffers that `to_empty` has just allocated, whose content means nothing."""
        self._known = False
        for buffer in self.buffers():
            buffer.zero_()

    @torch.no_grad()
    def forward(self, x: Tensor, *, again: bool = False) -> Tensor:
        """The scale for x (float32 []), which is recorded: one call is one step."""
        if again:
            return self.used.clone()
        amax = _amax(x)
        scale = self._use(amax)
        self._record(x, amax)
        return scale

    @torch.no_grad()
    def scale(self, x: Tensor, *, again: bool = False) -> Tensor:
        """The scale to use for x (any shape and floating dtype): float32 [], a tensor of its own. Where x itself has to
        tell and cannot, it is that of `quantize`: 1 for zeros, NaN for an amax that is not finite."""
        if again:
            return self.used.clone()
        return self._use(None if self._is_known() else _amax(x))

    @torch.no_grad()
    def peek(self, x: Tensor) -> Tensor:
        """`scale(x)`, and nothing is remembered of it: for evaluation."""
        used = self.used.clone()
        scale = self.scale(x)
        self.used.copy_(used)
        return scale

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScaleState:
        """Moves with the model, but keeps its dtypes: a scale of less precision would be another scale."""
        dtypes = {name: buffer.dtype for name, buffer in self._buffers.items() if buffer is not None}
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, dtype in dtypes.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != dtype:
                self._buffers[name] = exact[name].to(moved.device)
        return self

    @torch.no_grad()
    def observe(self, x: Tensor, *, again: bool = False) -> None:
        """Records x, which has been quantised with `scale(x)`, for the steps to come."""
        if not again:
            self._record(x, _amax(x))

    def upcoming(self) -> Tensor | None:
        """The scale (float32 []) of the next tensor, None while only that tensor itself can tell. Until there is one
        this waits for the device."""
        if not self._known and not torch.compiler.is_compiling():
            self._known = bool(self.steps > 0)
        return self.value.clone() if self._known else None

    def extra_repr(self) -> str:
        return f"{self.scaling}, {self.element.name}"

    def _is_known(self) -> bool:
        """Whether the host knows that there has been a step, without waiting for a device."""
        if not self._known and self.steps.device.type == "cpu" and not torch.compiler.is_compiling():
            self._known = bool(self.steps > 0)
        return self._known

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = False

    def _use(self, amax: Tensor | None) -> Tensor:
        scale = self.value.clone() if amax is None else torch.where(self.steps > 0, self.value, self._first(amax))
        self.used.copy_(scale)
        return scale

    def _first(self, amax: Tensor) -> Tensor:
        """The scale of a tensor without a past, from its amax."""
        if self.scaling.kind in ("delayed", "hindsight"):
            return self._scale_of(amax)
        return torch.where(torch.isfinite(amax), power_of_two(self._first_exponent(amax)), torch.nan)

    def _scale_of(self, amax: Tensor) -> Tensor:
        largest = torch.finfo(torch.float32).max
        scale = amax_scale(amax.float(), self.element.amax_target) * 2.0**self.scaling.margin
        return torch.where(amax == 0, 1.0, scale.clamp(SMALLEST_SCALE, largest))

    def _first_exponent(self, amax: Tensor) -> Tensor:
        safe = torch.where(torch.isfinite(amax), amax, 0.0)
        if self.scaling.kind == "autoflex":
            return initial_exponent(safe.double())
        return fitting_exponent(safe.double(), self.element.max)

    def _record(self, x: Tensor, amax: Tensor) -> None:
        by_codes = self.scaling.kind in ("autoflex", "overflow")
        usable = torch.isfinite(amax.float()) & ((amax > 0) | (by_codes & (self.steps > 0)))
        if self.scaling.kind == "delayed":
            self._delayed(torch.where(usable, amax, 0.0).float())
        elif self.scaling.kind == "hindsight":
            self._hindsight(amax.float(), usable)
        elif x.numel():
            exponent = self.exponent
            if not self._is_known():
                exponent = torch.where(self.steps > 0, exponent, self._first_exponent(amax))
            if self.scaling.kind == "autoflex":
                moved, history, filled = predicted_exponent(amax.double(), exponent, self.history, self.filled)
                self.history.copy_(torch.where(usable, history, self.history))
                self.filled.copy_(torch.where(usable, filled, self.filled))
            else:
                moved = counted_exponent(x, exponent, self.element.max, self.scaling.value or 0.0)
            self.exponent.copy_(torch.where(usable, moved, self.exponent))
            self.value.copy_(torch.where(usable, power_of_two(self.exponent), self.value))
        self.steps.add_(usable)

    def _delayed(self, amax: Tensor) -> None:
        """amax: 0 where it says nothing, so that the others of the window decide."""
        self.history.copy_(torch.cat((amax.view(1), self.history[:-1])))
        largest = amax if self.scaling.recent else self.history.amax()
        self.value.copy_(torch.where(largest > 0, self._scale_of(largest), self.value))

    def _hindsight(self, amax: Tensor, usable: Tensor) -> None:
        kept = float(self.scaling.value or 0.0)
        moved = torch.where(self.steps > 0, kept * self.range + (1.0 - kept) * amax, amax)
        self.range.copy_(torch.where(usable, moved, self.range))
        self.value.copy_(torch.where(usable, self._scale_of(self.range), self.value))


def _check_element(scaling: Scaling, element: object) -> None:
    if not isinstance(element, Format):
        raise ValueError(
            f"element: {getattr(element, 'name', element)} has block scales of its own, accepted: elements"
        )
    whole = isinstance(element, IntFormat) and element.is_signed and element.restricted and not element.fraction_bits
    if scaling.kind == "autoflex" and not (whole and element.bits == FLEX_BITS):
        raise ValueError(f"element: autoflex is defined for int{FLEX_BITS}, got {element.name}")
    if scaling.kind == "overflow" and not (whole and element.bits <= WIDEST_INTEGER):
        raise ValueError(
            f"element: overflow=… counts codes of integers of 2 to {WIDEST_INTEGER} bits, such as int10, got "
            f"{element.name}"
        )


def _amax(x: Tensor) -> Tensor:
    """max |x| as float32 [], float64 of float64 tensors; NaN comes through."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if not x.numel():
        return x.new_zeros((), dtype=dtype)
    low, high = torch.aminmax(x)
    return torch.maximum(high, -low).abs().to(dtype)
