"""Smooth-SwiGLU: SwiGLU whose product is quantised with a power of two for each channel (arXiv 2409.12517).

    h = silu(gate) ⊙ up        operand of the layer behind = s ⊙ Q(h / s),  s_c = the power of two above max |h_c|

In long runs the two branches align and single channels of h grow by orders of magnitude. Under one scale for the tensor
the others then fall among the format's subnormal values, and a delayed scale is overrun at once. Every channel of h / s
has its maximum in 1/2 … 1, so one constant scale serves all channels and all steps; the function is that of SwiGLU. For
inference s goes into the weights around: w_up / s and w_down · s.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torch.nn.functional import silu

from narrowgauge.formats.operand import AnyScheme, OperandScheme, base_scheme
from narrowgauge.formats.scaling import ScaleRule, scale_from_amax
from narrowgauge.formats.stages import Smooth
from narrowgauge.nn.layer import install_recipe
from narrowgauge.nn.recipe import Recipe, get_recipe


def smoothed(recipe: str | Recipe) -> Recipe:
    """The recipe for the layer behind SwiGLU: X is scaled by channel, and a scale per tensor that came from the data or
    from earlier steps becomes the power of two that takes 1 into the format's range.

    ValueError for recipes whose X has other granularities in the slots that are quantised.
    """
    base = get_recipe(recipe)
    return replace(
        base,
        name=f"{base.name}_smooth",
        x_fprop=_smoothed("x_fprop", base.x_fprop, Smooth(0)),
        x_wgrad=_smoothed("x_wgrad", base.x_wgrad, Smooth(1)),
    )


def _smoothed(slot: str, spec: AnyScheme | None, stage: Smooth) -> OperandScheme | None:
    if spec is None:
        return None
    scheme = base_scheme(spec)
    if scheme.tile != (None, None) or (isinstance(spec, OperandScheme) and spec.stages):
        raise ValueError(f"recipe: Smooth-SwiGLU goes with one scale per tensor and no other stage, got {slot}={spec}")
    scale = float(scale_from_amax(1.0, scheme.element, ScaleRule.POW2))
    return OperandScheme(replace(scheme, rule=ScaleRule.STATIC, value=scale), (stage,))


class SmoothSwiGLU(nn.Module):
    """y = down(silu(gate) ⊙ up). down: a layer under a recipe, whose recipe becomes `smoothed` of it, in place."""

    def __init__(self, down: nn.Module) -> None:
        super().__init__()
        recipe = getattr(down, "recipe", None)
        if not isinstance(recipe, Recipe):
            raise TypeError(f"down: expected a layer under a recipe, such as QuantLinear, got {type(down).__name__}")
        install_recipe(down, smoothed(recipe))
        self.down = down

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up: [..., hidden]; returns [..., outputs]."""
        y: Tensor = self.down(silu(gate) * up)
        return y
