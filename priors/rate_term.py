"""BackSlash's rate term of one model: which parameters, the strength, the shapes, and when these are estimated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats.rounding import choice
from narrowgauge.priors.fit import shape_from_ratio
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
from narrowgauge.priors.penalty import rate, subtract_rate_gradient_, sums
from narrowgauge.priors.rate import STEP, prior_bits
from narrowgauge.priors.row_fits import shapes_from_ratios
from narrowgauge.priors.strength import Strength, check_strength, strength_at


class RateMode(StrEnum):
    """Where the rate's gradient acts: on the weights after the optimizer's step, or in the gradient before it."""

    DECOUPLED = "decoupled"
    IN_LOSS = "in_loss"


class RateScope(StrEnum):
    """Which parameters share a shape: all of them, those of two or more dimensions (others are left alone), or each
    has its own."""

    ALL = "all"
    MATRICES = "matrices"
    LAYER = "layer"


class RateTerm:
    """λ R of a model's parameters: R's shape estimated every `every` steps, its gradient applied at each.

    params: a module, or its parameters, each once; those that are not trained are left out. The other arguments are
    those of `BackSlash`. `step`: steps done. `shapes`: ν of each parameter of `params` as last estimated, None before
    the first time; 1 where a parameter is all zeros.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Tensor],
        strength: Strength,
        *,
        mode: RateMode | str = "decoupled",
        every: int = 1,
        eps: float = 1.0,
        scope: RateScope | str = "all",
        table: bool = True,
    ) -> None:
        check_strength(strength)
        self.mode, self.scope = choice(RateMode, mode, "mode"), choice(RateScope, scope, "scope")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every: got {every!r}, accepted: integers of at least 1")
        if not (eps >= 0 and math.isfinite(eps)):
            raise ValueError(f"eps: got {eps!r}, accepted: finite numbers >= 0")
        self.strength, self.every, self.eps, self.table = strength, every, float(eps), table
        self.params = self._chosen(params)
        self.count = sum(p.numel() for p in self.params)
        self.step = 0
        self.shapes: list[float] | None = None
        self._rms = 0.0

    def _chosen(self, params: nn.Module | Iterable[Tensor]) -> list[Tensor]:
        given = list(params.parameters() if isinstance(params, nn.Module) else params)
        trained = list({id(p): p for p in given if p.requires_grad and p.numel()}.values())
        if self.scope is RateScope.MATRICES:
            trained = [p for p in trained if p.ndim >= 2]
        if not trained:
            raise ValueError(f"params: got {len(given)}, none of them trained, with values and in scope {self.scope}")
        for p in trained:
            if hasattr(p, "device_mesh"):
                raise TypeError("params: got a DTensor, accepted: whole tensors (the sums would be those of a shard)")
            if not p.is_floating_point():
                raise TypeError(f"params: got one of dtype {p.dtype}, accepted: floating-point types")
            if self.mode is RateMode.DECOUPLED and p.element_size() < 4:
                raise ValueError(
                    f"params: got one of dtype {p.dtype} with mode 'decoupled', whose steps of about λ/N are lost in "
                    "its rounding; accepted: float32, or mode='in_loss', where the optimizer rounds"
                )
        return trained

    @property
    def current_strength(self) -> float:
        """λ of the step that is next, or being made."""
        return strength_at(self.strength, self.step)

    def estimate(self) -> list[float]:
        """Sets `shapes` from the parameters as they are, and returns them. FloatingPointError where not finite."""
        first, second = sums(self.params)
        total, squares = float(first.sum()), float(second.sum())
        if not math.isfinite(total + squares):
            raise FloatingPointError("backslash: the parameters have NaN or infinite values")
        self._rms = math.sqrt(squares / self.count)
        if total == 0.0:
            self.shapes = [1.0] * len(self.params)
        elif self.scope is RateScope.LAYER:
            counts = torch.tensor([p.numel() for p in self.params], dtype=torch.float64, device=first.device)
            ratios = torch.where(first > 0, counts * second / first.square(), torch.nan).clamp(min=1.0)
            found = shapes_from_ratios(ratios, table=self.table)
            self.shapes = torch.where(found.isnan(), 1.0, found).tolist()
        else:
            ratio = max(1.0, self.count * squares / total**2)
            self.shapes = [shape_from_ratio(ratio, table=self.table)] * len(self.params)
        return self.shapes

    def _due_shapes(self) -> list[float]:
        return self.estimate() if self.shapes is None or self.step % self.every == 0 else self.shapes

    def add_gradients(self) -> None:
        """∂(λR)/∂θ is added to every `.grad` (mode "in_loss"); a parameter without one gets it as its gradient."""
        strength = self.current_strength
        if strength == 0.0:
            return
        shapes = self._due_shapes()
        for p in self.params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in self.params if p.grad is not None]
        subtract_rate_gradient_(grads, self.params, shapes, -strength / self.count, self.eps)

    def pull(self) -> None:
        """θ ← θ - ∂(λR)/∂θ (mode "decoupled"), without a learning rate."""
        strength = self.current_strength
        if strength != 0.0:
            subtract_rate_gradient_(self.params, self.params, self._due_shapes(), strength / self.count, self.eps)

    def rate(self) -> float:
        """R with the last shapes (estimated now, if never before)."""
        return rate(self.params, self.estimate() if self.shapes is None else self.shapes, self.eps)

    def live(self, step: float = STEP) -> dict[str, float]:
        """strength; shape, of the last estimate (with scope "layer" the mean over parameters, weighted by their sizes);
        bits: entropy per parameter of the generalized Gaussian of that estimate, quantised with `step`. Costs no pass
        over the parameters. Only the strength before the first estimate."""
        values = {"strength": self.current_strength}
        if self.shapes is None:
            return values
        weights = [p.numel() / self.count for p in self.params]
        shape = math.fsum(w * s for w, s in zip(weights, self.shapes, strict=True))
        bits = prior_bits(GeneralizedGaussian.from_std(shape, self._rms), step) if self._rms else 0.0
        return values | {"shape": shape, "bits": bits}

    def state_dict(self) -> dict[str, Any]:
        """Counter and last estimate: plain values."""
        return {
            "step": self.step,
            "shapes": self.shapes,
            "rms": self._rms,
            "mode": str(self.mode),
            "scope": str(self.scope),
            "sizes": [p.numel() for p in self.params],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; ValueError for a state of other parameters, mode or scope."""
        ours = self.state_dict()
        for name in ("mode", "scope", "sizes"):
            if state[name] != ours[name]:
                raise ValueError(f"{name}: the saved BackSlash has {state[name]!r}, this one {ours[name]!r}")
        self.step, self._rms = state["step"], state["rms"]
        self.shapes = None if state["shapes"] is None else list(state["shapes"])
