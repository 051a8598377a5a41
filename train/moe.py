"""A small Llama whose MLPs are mixtures of experts.

Shapes in names: N tokens, C model width (``dim``), M experts, K experts of one token. A router chooses, for each token,
the K experts with the largest logits, and weighs their outputs by their probabilities among the chosen ones::

    l = W_r x  [M],   p = softmax(l),   g_e = p_e / Σ_{chosen} p   for the K largest,   y = Σ_{chosen} g_e · E_e(x)

No token is dropped. Each expert is a SwiGLU MLP of its own, made of linear layers, so that recipes convert it, an
optimizer may hold some experts and not others, and the gradient of a frozen one is not computed. The router stays in
float32, and recipes leave it alone: a choice that flips changes more than any rounding. :func:`expert_tensors` has the
experts' matrices with a leading expert axis.

Sources: Shazeer et al. (arXiv:1701.06538); renormalised weights as in Mixtral (arXiv:2401.04088); Switch Transformers
for the balance loss (arXiv:2101.03961, section 2.2), ST-MoE for the z-loss (arXiv:2202.08906, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowgauge.train.blocks import MLP
from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.model import Llama


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEConfig(LlamaConfig):
    """Sizes of a :class:`MoELlama`; ``ffn_dim`` is that of one expert. ``ValueError`` for sizes that do not fit."""

    num_experts: int = 8
    experts_per_token: int = 2

    def __post_init__(self) -> None:
        LlamaConfig.__post_init__(self)  # super() does not work in a dataclass with slots
        if self.num_experts < 1:
            raise ValueError(f"num_experts: expected at least 1, got {self.num_experts}")
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(f"experts_per_token: expected 1 … {self.num_experts}, got {self.experts_per_token}")


@dataclass(frozen=True, slots=True)
class Routing:
    """Where the tokens of one forward went: ``logits`` [N, M] float32, ``chosen`` [N, K] int64, ``weights`` [N, K]."""

    logits: Tensor
    chosen: Tensor
    weights: Tensor

    @property
    def counts(self) -> Tensor:
        """How many tokens each expert got, [M] float32; Σ = N · K."""
        return torch.bincount(self.chosen.flatten(), minlength=self.logits.shape[-1]).float()

    def balance_loss(self, emphasis: Tensor | None = None) -> Tensor:
        """``M Σ_e f_e P_e``, with ``f`` the share of all choices and ``P`` the mean probability of each expert.

        1 when both are uniform, larger the more both agree on few experts. ``emphasis`` [M] multiplies ``f``.
        """
        share = self.counts / self.chosen.numel()
        if emphasis is not None:
            share = share * emphasis
        return self.logits.shape[-1] * (share * self.logits.softmax(-1).mean(0)).sum()

    def z_loss(self) -> Tensor:
        """Mean over the tokens of ``(log Σ_e exp l_e)²``: keeps logits small."""
        return self.logits.logsumexp(-1).square().mean()


class Router(nn.Module):
    """Tokens [N, C] to their :class:`Routing`, in float32."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.experts_per_token = config.experts_per_token
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.dim))

    def forward(self, x_NC: Tensor) -> Routing:
        with torch.autocast(x_NC.device.type, enabled=False):
            logits_NM = x_NC.float() @ self.weight.float().T
            top = logits_NM.topk(self.experts_per_token, dim=-1)
            return Routing(logits_NM, top.indices, top.values.softmax(-1))


class MoE(nn.Module):
    """Experts behind a router, in the place of an MLP: [..., C] to [..., C].

    ``routing`` is that of the last forward, for the losses; with activation checkpointing, that of its last run.
    """

    routing: Routing | None

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts = nn.ModuleList(MLP(config) for _ in range(config.num_experts))
        self.routing = None

    def forward(self, x: Tensor) -> Tensor:
        x_NC = x.flatten(0, -2)
        self.routing = routing = self.router(x_NC)
        y_NC = torch.zeros_like(x_NC)
        for index, expert in enumerate(self.experts):
            tokens, place = (routing.chosen == index).nonzero(as_tuple=True)
            if len(tokens):
                weighted = expert(x_NC[tokens]) * routing.weights[tokens, place, None]
                y_NC = y_NC.index_add(0, tokens, weighted.to(y_NC.dtype))
        return y_NC.view_as(x)


class MoELlama(Llama):
    """Token ids [B, T] to logits [B, T, V], as :class:`Llama`, with a :class:`MoE` in every block."""

    def __init__(self, config: MoEConfig, *, seed: int = 0) -> None:
        super().__init__(config, seed=seed)
        for block in self.layers:
            block.mlp = MoE(config)
        self.reset_parameters(torch.Generator().manual_seed(seed))


def moe_layers(model: nn.Module) -> Iterator[tuple[str, MoE]]:
    """Name and layer of every mixture in ``model``; ``ValueError`` where there is none."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, MoE)]
    if not found:
        raise ValueError("model: expected one with mixtures of experts, such as MoELlama")
    yield from found


def expert_tensors(layer: MoE) -> dict[str, Tensor]:
    """Copies of the experts' parameters with a leading expert axis: name within an expert → [M, …]."""
    experts = [dict(expert.named_parameters()) for expert in layer.experts]
    return {name: torch.stack([expert[name].detach() for expert in experts]) for name in experts[0]}


@torch.no_grad()
def set_expert_tensors(layer: MoE, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`expert_tensors`."""
    for index, expert in enumerate(layer.experts):
        for name, parameter in expert.named_parameters():
            parameter.copy_(tensors[name][index])
