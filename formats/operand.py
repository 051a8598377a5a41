"""`OperandScheme`: how an operand of a matrix product is made, a scheme and what is done around it; one line of text.

    scheme[+option]*      mxfp4:rceil+sr+rht64fresh+gain0.75   uint8/row+sr+affine   e2m1fn/row+occ0.99

Options beside those of a scheme are stages (`narrowgauge.formats.stages`), and the rules of stateful scales, which are
written in the place of a scale rule: `e4m3fn:delayed=1024`. Operands are matrices with the reduction axis last.

    u = before(x), stage by stage        û = dequantise(quantise(u))        operand = after(û), in reverse order
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.quantizer import quantize_reference
from narrowgauge.formats.rules import ScaleRule
from narrowgauge.formats.scheme import OPTIONS, Scheme, parse
from narrowgauge.formats.stages import STAGES, Draw, Gain, Rotation, Stage

STATEFUL_RULES = ("delayed", "hindsight", "autoflex", "overflow")
"""Rules by which a scale comes from earlier steps; `narrowgauge.nn.scaling` has their state."""


@dataclass(frozen=True)
class OperandScheme:
    """scheme: of the quantised values. stages: what is done around them, in the order in which it is done before.
    scaling: a stateful rule as text, such as "delayed=1024"; the scheme is per tensor then, and its own rule is that of
    a call without history."""

    scheme: Scheme
    stages: tuple[Stage, ...] = ()
    scaling: str | None = None

    def __post_init__(self) -> None:
        for stage in self.stages:
            stage.check(self.scheme)
        if len({type(stage) for stage in self.stages}) < len(self.stages):
            raise ValueError(f"option: each may be given once, got {'+'.join(map(str, self.stages))}")
        if list(self.stages) != sorted(self.stages, key=lambda stage: stage.order):
            object.__setattr__(self, "stages", tuple(sorted(self.stages, key=lambda stage: stage.order)))
        if self.scaling is not None and self.scheme.tile != (None, None):
            raise ValueError(f"rule: {self.scaling!r} goes with one scale per tensor, got {self.scheme.granularity}")
        if self.scaling is not None and self.stages:
            stages = "+".join(map(str, self.stages))
            raise ValueError(f"rule: {self.scaling!r} has seen tensors as they come, and goes with no {stages!r}")

    @property
    def stochastic(self) -> bool:
        """Whether codes are rounded stochastically."""
        return self.scheme.stochastic

    @property
    def random(self) -> bool:
        """Whether anything is drawn anew in every call."""
        return self.scheme.stochastic or any(stage.random for stage in self.stages)

    @property
    def rotation(self) -> Rotation | None:
        """The rotation that the other operand of the product needs, too."""
        return next((stage for stage in self.stages if isinstance(stage, Rotation)), None)

    @property
    def gain(self) -> float:
        """By how much the codes' values are too large."""
        return next((stage.gain for stage in self.stages if isinstance(stage, Gain)), 1.0)

    @property
    def coded(self) -> bool:
        """Whether the operand is its codes times scale, up to the gain: no stage adds or bends anything."""
        return all(isinstance(stage, Rotation | Gain) for stage in self.stages)

    def __str__(self) -> str:
        text = str(self.scheme)
        if self.scaling is not None:
            head, *options = text.split("+")
            text = "+".join([f"{head.partition(':')[0]}:{self.scaling}", *options])
        return "+".join([text, *map(str, self.stages)])


AnyScheme = Scheme | OperandScheme


def unscaled(scheme: Scheme) -> Scheme:
    """The scheme with the scale 1, for values that were divided by theirs."""
    return replace(scheme, rule=ScaleRule.STATIC, value=1.0)


def base_scheme(spec: AnyScheme) -> Scheme:
    """The scheme of the quantised values."""
    return spec if isinstance(spec, Scheme) else spec.scheme


def draws_anew(spec: AnyScheme) -> bool:
    """Whether equal calls may differ."""
    return spec.stochastic if isinstance(spec, Scheme) else spec.random


_PARSED: dict[str, AnyScheme] = {}


def parse_operand(text: Any) -> AnyScheme:
    """The plain `Scheme` of a text that is one, else its `OperandScheme`; either is returned as it is.

    ValueError says what the text cannot mean, TypeError for other types.
    """
    if isinstance(text, Scheme | OperandScheme):
        return text
    if not isinstance(text, str):
        raise TypeError(f"scheme: expected a string, a Scheme or an OperandScheme, got {type(text).__name__}")
    if text not in _PARSED:
        _PARSED[text] = _parse(text)
    return _PARSED[text]


def _parse(text: str) -> AnyScheme:
    head, *options = text.strip().split("+")
    plain = [option for option in options if option in OPTIONS]
    stages = [_stage(option, text) for option in options if option not in OPTIONS]
    base, _, rule = head.partition(":")
    scaling = rule if rule.partition("=")[0] in STATEFUL_RULES else None
    scheme = parse("+".join([base if scaling else head, *plain]))
    return OperandScheme(scheme, tuple(stages), scaling) if stages or scaling else scheme


def _stage(option: str, text: str) -> Stage:
    for kind in STAGES:
        stage = kind.from_option(option)
        if stage is not None:
            return stage
    known = [*OPTIONS, "hN", "rhtN", "rhtNfresh", *(kind.EXAMPLE for kind in STAGES if kind is not Rotation)]
    raise ValueError(f"scheme: unknown option {option!r} in {text!r}; accepted: {', '.join(known)}")


def operand_reference(
    x: NDArray[np.floating], spec: AnyScheme | str, draw: Draw | None = None, scale: float | None = None
) -> NDArray[np.float64]:
    """What a product sees of x [rows, reduction] (float32, or float64, which stages round to float32), in float64: of a
    rotated operand the rotated values. scale: of a stateful rule, None for a call without history."""
    chosen = parse_operand(spec)
    here = draw or Draw()
    if isinstance(chosen, Scheme):
        return quantize_reference(x, chosen, here.seed, here.offset).dequantize()
    u, memos = run_before(x, chosen, here)
    values = base_reference(u, chosen, scale, here)
    for stage, memo in zip(reversed(chosen.stages), reversed(memos), strict=True):
        values = stage.after(values, memo)
    return values


def run_before(x: NDArray[np.floating], spec: OperandScheme, draw: Draw) -> tuple[NDArray[np.float32], list[Any]]:
    """(what is quantised, the memo of each stage)."""
    with np.errstate(over="ignore", invalid="ignore"):
        u = np.asarray(x, dtype=np.float32)
    memos = []
    for stage in spec.stages:
        u, memo = stage.before(u, spec.scheme, draw)
        memos.append(memo)
    return u, memos


def base_reference(u: NDArray[np.float32], spec: OperandScheme, scale: float | None, draw: Draw) -> NDArray[np.float64]:
    """The dequantised values of u under the scheme, or under the scale that a stateful rule has given."""
    if scale is None:
        return quantize_reference(u, spec.scheme, draw.seed, draw.offset).dequantize()
    with np.errstate(over="ignore", invalid="ignore"):
        y = u * (np.float32(1) / np.float32(scale))
    element = Scheme(
        spec.scheme.format, rule=ScaleRule.STATIC, value=1.0, stochastic=spec.stochastic, flush=spec.scheme.flush
    )
    return quantize_reference(y, element, draw.seed, draw.offset).dequantize() * float(np.float32(scale))
