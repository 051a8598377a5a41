"""Exponential moving average of the weights.

Paper: Morales-Brotons, Vogels, Hendrikx, "Exponential Moving Average of Weights in Deep Learning: Dynamics
and Benefits", TMLR 2024, arXiv:2411.18704.

Mechanism. Beside the weights ``w`` that are trained, keep their average ``a``, which the training never
sees::

    a_0 = w_0,    a_{t+1} = a_t + (1 - d_t) · (w_{t+1} - a_t),    d_t = min(decay, (1 + t) / (10 + t))

The ramp of ``d_t`` (a common addition) lets the average forget the initial weights early in a
run. An average over about ``1 / (1 - decay)`` steps removes most of the noise that the step size leaves in
``w``, so that it has a lower loss than ``w`` while the learning rate is high; as the rate decays to 0 the two
meet.

``a`` is kept in float32 whatever the model's dtype: at decay 0.999, bfloat16 would round nearly every update
away.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.train import (
    BatchStream,
    ByteCorpus,
    Claim,
    Constant,
    Context,
    Experiment,
    PublishedMethod,
    register,
    tiny_llama,
)

RAMP = 10


@register
@dataclass(eq=False)
class EMA(PublishedMethod):
    """Keeps the average and evaluates it: ``ema_val_loss`` beside ``val_loss``.

    ``decay`` in [0, 1): the average is over about ``1 / (1 - decay)`` steps. Raises ``ValueError`` outside.
    """

    name = "ema"
    summary = "evaluate an exponential moving average of the weights"
    paper = "Exponential Moving Average of Weights in Deep Learning: Dynamics and Benefits (TMLR 2024)"
    arxiv = "2411.18704"
    usage = "narrowgauge train --method ema:decay=0.99"

    decay: float = 0.999
    average: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    """The average of each trainable parameter by name, float32, on the parameter's device."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), got {self.decay!r}")

    def attach(self, model: nn.Module) -> None:
        """``a_0 = w_0``."""
        self.average = {name: p.detach().float().clone() for name, p in _trainable(model)}

    @torch.no_grad()
    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """Move the average towards the new weights."""
        decay = min(self.decay, (1 + step) / (RAMP + step))
        for name, parameter in _trainable(model):
            self.average[name].lerp_(parameter.float(), 1 - decay)

    @contextlib.contextmanager
    def averaged(self, model: nn.Module) -> Iterator[nn.Module]:
        """Inside, ``model`` has the average as its weights; afterwards its own, to the bit."""
        trained = {name: p.detach().clone() for name, p in _trainable(model)}
        try:
            _assign(model, self.average)
            yield model
        finally:
            _assign(model, trained)

    def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        """The trainer's metrics of the average, with ``ema_`` before each name."""
        with self.averaged(model):
            return {f"ema_{name}": value for name, value in evaluate(model).items()}

    def state_dict(self) -> dict[str, Any]:
        """The average, and the decay that it was made with."""
        return {"decay": self.decay, "average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved average; ``ValueError`` when it has another decay or other parameters."""
        if state["decay"] != self.decay:
            raise ValueError(f"decay: the saved average has {state['decay']}, this one {self.decay}")
        if state["average"].keys() != self.average.keys():
            raise ValueError("ema: the saved average is of other parameters than this model's")
        for name, saved in state["average"].items():
            self.average[name].copy_(saved)

    @classmethod
    def experiment(cls) -> Experiment:
        """Validation loss of the average against that of the last weights, at a constant rate."""
        return Experiment(
            setting="A Llama 32 wide with 1 layer on 0.4 MB of the standard library, 150 steps at the constant rate"
            " 0.01. One run gives both numbers of a seed, as the average does not influence the training.",
            claims=(Claim("validation loss of the average, nats per byte", "average", "last weights"),),
            run=_compare,
            seeds=5,
        )


def _compare(context: Context) -> dict[str, float]:
    context.begin("constant rate", 1.0)
    sizes = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 96, "max_seq_len": 32}
    model = context.prepare(tiny_llama(context.seed, **sizes))
    corpus = ByteCorpus(max_bytes=400_000)
    data = BatchStream(corpus, batch_size=8, seq_len=32, seed=context.seed, validation_batches=16)
    steps = context.steps(150)
    rate = Constant(1e-2)
    trainer = context.fit(model, data, steps, lr=1e-2, schedule=rate, methods=[EMA(decay=0.95)], weight_decay=0.01)
    metrics = trainer.evaluate()
    return {"average": metrics["ema_val_loss"], "last weights": metrics["val_loss"]}


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


@torch.no_grad()
def _assign(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, parameter in _trainable(model):
        parameter.copy_(values[name])
