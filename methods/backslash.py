"""BackSlash: training charges the weights for what they cost to store; then, if wanted, pruning and plain training.

Paper: Wu, Wen, Han, "BackSlash: Rate Constrained Optimized Training of Large Language Models", ICML 2025,
arXiv:2504.16968.

Mechanism. Weights follow a generalized Gaussian of shape ``ν``, so that but for constants ``|θ|^ν`` is what a weight
costs in bits. With ``N`` parameters::

    J = D + λ R,    R = 1/N Σ (|θ| + ε)^ν,    ν estimated anew from the weights

``mode="decoupled"`` (as the authors' code): after the optimizer's step ``θ ← θ - λ ∂R/∂θ``, without a learning rate.
``mode="in_loss"`` (as the paper's algorithm): ``λ ∂R/∂θ`` is added to the gradient. λ = 1000 belongs to 1.1e8
parameters; what a weight feels is λ/N, which ``strength=None`` keeps.

Phases: the rate counts before step ``until``; there the smallest weights are set to zero (``prune``), and stay zero
while training goes on without the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.priors.prune import Masks, prune_
from narrowgauge.priors.rate import measure_rate
from narrowgauge.priors.rate_term import RateMode, RateTerm
from narrowgauge.priors.strength import Until, scaled_strength
from narrowgauge.train import (
    BatchStream,
    ByteCorpus,
    Claim,
    Context,
    Experiment,
    PublishedMethod,
    register,
    tiny_llama,
)


@register
@dataclass(eq=False)
class BackSlash(PublishedMethod):
    """Adds the rate to the training, and reports it: ``backslash_shape``, ``backslash_entropy_bits`` and
    ``backslash_exp_golomb_bits`` per parameter (of weights rounded to 2^-8) with every evaluation.

    ``strength``: λ, or ``None`` for the published λ/N. ``until``: the step at which the rate's phase ends, 0 for never.
    ``prune``: share of the weights that is set to zero there. ``every``: steps between estimates of ν. ``mode``,
    ``eps``, ``scope``, ``table``: as of :class:`narrowgauge.priors.BackSlash`. Raises ``ValueError`` for what those
    refuse, and for ``prune`` without ``until``.
    """

    name = "backslash"
    summary = "charge the weights for their bits while training; then prune and train on"
    paper = "BackSlash: Rate Constrained Optimized Training of Large Language Models (ICML 2025)"
    arxiv = "2504.16968"
    usage = "narrowgauge train --method backslash:until=400,prune=0.5"

    strength: float | None = None
    until: int = 0
    prune: float = 0.0
    every: int = 1
    mode: str = "decoupled"
    eps: float = 1.0
    scope: str = "all"
    table: bool = True
    term: RateTerm | None = field(default=None, init=False, repr=False)
    masks: Masks | None = field(default=None, init=False, repr=False)
    _model: nn.Module | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.until < 0:
            raise ValueError(f"until: expected a step, or 0 for never, got {self.until}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune: expected a share in [0, 1), got {self.prune}")
        if self.prune and not self.until:
            raise ValueError("prune: expected together with until, the step at which it is done")
        # A term of one weight finds out now whether the settings are right, not when training begins.
        self._new_term([nn.Parameter(torch.zeros(1, 1))])

    def _new_term(self, params: nn.Module | list[nn.Parameter]) -> RateTerm:
        listed = list(params.parameters()) if isinstance(params, nn.Module) else params
        count = sum(p.numel() for p in listed if p.requires_grad and (p.ndim >= 2 or self.scope != "matrices"))
        strength = scaled_strength(max(count, 1)) if self.strength is None else self.strength
        return RateTerm(
            listed,
            Until(strength, self.until) if self.until else strength,
            mode=self.mode,
            every=self.every,
            eps=self.eps,
            scope=self.scope,
            table=self.table,
        )

    def attach(self, model: nn.Module) -> None:
        """Take the model's trainable parameters; ``ValueError`` where a decoupled pull would move weights off the grid
        on which a recipe keeps them."""
        if self.mode == RateMode.DECOUPLED:
            for name, layer in model.named_modules():
                grid = getattr(getattr(layer, "recipe", None), "update", None)
                if grid is not None:
                    raise ValueError(
                        f"backslash: {name} keeps its weights on the grid {grid}, which a decoupled pull leaves;"
                        " expected mode='in_loss'"
                    )
        self._model, self.term = model, self._new_term(model)

    @property
    def _term(self) -> RateTerm:
        if self.term is None:
            raise ValueError("backslash: not attached to a model yet")
        return self.term

    def begin_step(self, model: nn.Module, step: int) -> None:
        """Prune when the rate's phase is over."""
        self._term.step = step
        if self.prune and step >= self.until and self.masks is None:
            self.masks = prune_(model, self.prune)

    def gradient(self, model: nn.Module, step: int) -> None:
        """``in_loss``: the gradient of the rate beside the task's, before clipping."""
        if self._term.mode is RateMode.IN_LOSS:
            self._term.add_gradients()

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """``decoupled``: the pull; and pruned weights are zero again."""
        if self._term.mode is RateMode.DECOUPLED:
            self._term.pull()
        self._term.step = step + 1
        if self.masks is not None:
            self.masks.apply()

    def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        """The rate of the weights as they are."""
        found = measure_rate(self._term.params, orders=[0])
        metrics = {"entropy_bits": found.entropy, "exp_golomb_bits": found.exp_golomb[0], "zeros": found.zeros}
        if found.prior is not None:
            metrics["shape"] = found.prior.shape
        return {f"backslash_{name}": value for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Counter, shapes, masks."""
        return {"term": self._term.state_dict(), "masks": None if self.masks is None else self.masks.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; ``ValueError`` for one of other parameters, mode or scope."""
        self._term.load_state_dict(state["term"])
        if state["masks"] is not None and self._model is not None:
            self.masks = Masks(self._model, state["masks"])

    @classmethod
    def experiment(cls) -> Experiment:
        """Exp-Golomb bits per parameter and validation loss with and without the rate, on the same batches."""
        return Experiment(
            setting="A Llama 32 wide with 1 layer on 0.4 MB of the standard library, 300 steps; λ/N = 3e-4 for the"
            " first 150 of them, and 0 in the control. Bits are those of the weights rounded to 2^-8, order 0.",
            claims=(
                Claim("Exp-Golomb bits per parameter", "bits", "bits without", margin=1.0),
                Claim("validation loss, nats per byte", "loss", "loss without", margin=-0.05),
            ),
            run=_compare,
        )


def _compare(context: Context) -> dict[str, float]:
    sizes = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 96, "max_seq_len": 32}
    steps = context.steps(300)
    corpus = ByteCorpus(max_bytes=400_000)
    values: dict[str, float] = {}
    for label, strength in ((" without", 0.0), ("", 3e-4)):
        context.begin(f"λ/N = {strength:g}", 0.5)
        model = context.prepare(tiny_llama(context.seed, **sizes))
        count = sum(p.numel() for p in model.parameters())
        data = BatchStream(corpus, batch_size=8, seq_len=32, seed=context.seed, validation_batches=16)
        method = BackSlash(strength=strength * count, until=steps // 2)
        metrics = context.fit(model, data, steps, methods=[method]).evaluate()
        values |= {f"bits{label}": metrics["backslash_exp_golomb_bits"], f"loss{label}": metrics["val_loss"]}
    return values
