"""BackSlash: training whose loss counts what the weights cost to store, around any optimizer.

    J = D + λ R,    R = 1/N Σ (|θ| + ε)^ν,    ν estimated anew from the weights every `every` steps

Source: BackSlash (arXiv 2504.16968). Paper and released code differ in where the rate's gradient acts:

    "in_loss"     algorithm 1 of the paper: it is added to the task's gradient, and the optimizer makes of the sum what
                  it makes of gradients
    "decoupled"   the code: the optimizer steps, ν is estimated from the new weights, and θ ← θ - λ ∂R/∂θ, without a
                  learning rate
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from narrowgauge.priors.rate import STEP, Rate, measure_rate
from narrowgauge.priors.rate_term import RateMode, RateScope, RateTerm
from narrowgauge.priors.strength import Strength

_KEY = "backslash"


class BackSlash(Optimizer):
    """An optimizer that does what `optimizer` does, and pulls the weights to what is cheap to store.

    optimizer: any `torch.optim.Optimizer`, with whatever states. Its groups, states and hooks are this one's: learning
        rate schedules and clipping work on either.
    params: the module or the parameters whose rate counts; by default all that the optimizer has.
    strength: λ, or a function of the step (`narrowgauge.priors.strength`: warm-up, cosine, `Until` for a phase that
        ends). Where it is 0, nothing is done or estimated. The published values belong to 1.1e8 parameters;
        `scaled_strength(N)` keeps λ/N.
    mode: "decoupled" or "in_loss". every: steps between estimates of ν. eps: ε.
    scope: "all" parameters share one ν, as published; "matrices": those of two or more dimensions do, and others are
        left alone; "layer": each has its own. N counts those that are pulled.
    table: ν from the published table (0.10 … 2.99), or else by exact inversion.

    With "in_loss" a closure's result is J, which is what optimizers that compare losses need, and gradients scaled for
    mixed precision have to be unscaled before `step`. With "decoupled", parameters must be float32 or float64: in 16
    bits the small pulls would round away.

    Raises TypeError and ValueError that name the argument, and FloatingPointError where parameters are not finite.
    """

    # A GradScaler would tell this object what fused optimizers want to know; so it unscales the gradients itself.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        optimizer: Optimizer,
        params: nn.Module | Iterable[Tensor] | None = None,
        strength: Strength = 1000.0,
        *,
        mode: RateMode | str = "decoupled",
        every: int = 1,
        eps: float = 1.0,
        scope: RateScope | str = "all",
        table: bool = True,
    ) -> None:
        # Optimizer.__init__ would make groups and states of its own; those of `optimizer` are used (see below).
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: got {type(optimizer).__name__}, accepted: a torch.optim.Optimizer")
        self.optimizer = optimizer
        self._follows = params is None
        self._options: dict[str, Any] = {"mode": mode, "every": every, "eps": eps, "scope": scope, "table": table}
        self.term = RateTerm(self._stepped() if params is None else params, strength, **self._options)

    def _stepped(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    # What an optimizer has: all of it is the inner one's.

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The inner optimizer's."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The inner optimizer's."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimizer's."""
        return self.optimizer.defaults

    def __getattr__(self, name: str) -> Any:
        # Hooks, which Optimizer's methods look up in attributes, and what an optimizer has beside torch's.
        if name in ("optimizer", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        term = self.term
        options = f"strength={term.strength}, mode={term.mode}, every={term.every}, eps={term.eps}, scope={term.scope}"
        return f"BackSlash({options})\n{self.optimizer!r}"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds the group to the inner optimizer; its parameters are pulled too, unless `params` was given."""
        self.optimizer.add_param_group(param_group)
        if self._follows:
            old, self.term = self.term, RateTerm(self._stepped(), self.term.strength, **self._options)
            self.term.step = old.step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The inner optimizer's."""
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the inner optimizer and one of the rate; returns what the inner one returns."""
        if self.term.mode is RateMode.DECOUPLED:
            loss = self.optimizer.step() if closure is None else self.optimizer.step(closure)
            self.term.pull()
        elif closure is None:
            self.term.add_gradients()
            loss = self.optimizer.step()
        else:
            loss = self.optimizer.step(self._with_rate(closure))
        self.term.step += 1
        return loss

    def _with_rate(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def evaluate() -> Any:
            loss = closure()
            self.term.add_gradients()
            strength = self.term.current_strength
            return loss + strength * self.term.rate() if strength else loss

        return evaluate

    # What this one adds.

    @property
    def shape(self) -> float | list[float] | None:
        """ν as last estimated; with scope "layer" those of the parameters in order; None before the first step."""
        shapes = self.term.shapes
        return shapes if shapes is None or self.term.scope is RateScope.LAYER else shapes[0]

    def live(self, step: float = STEP) -> dict[str, float]:
        """strength, shape and estimated bits per parameter, without a pass over the weights (see `RateTerm.live`)."""
        return self.term.live(step)

    @torch.no_grad()
    def measured_rate(self, step: float = STEP) -> Rate:
        """Bits per parameter of the weights as they are, by counting: one pass."""
        return measure_rate(self.term.params, step)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, and under "backslash" the counter and the shapes."""
        return {**self.optimizer.state_dict(), _KEY: self.term.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave. A dict without "backslash", of the inner optimizer alone, starts the rate
        at step 0. ValueError, before anything changes, for a state of other parameters, mode or scope."""
        state = dict(state_dict)
        saved = state.pop(_KEY, None)
        fresh = RateTerm(self.term.params, self.term.strength, **self._options)
        if saved is not None:
            fresh.load_state_dict(saved)
        self.optimizer.load_state_dict(state)
        self.term = fresh
