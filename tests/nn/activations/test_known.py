"""Which modules are recognised: by their class, or by computing the formula to the bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.nn import QuantLinear
from narrowgauge.nn.activations import GELU, LayerNorm, RMSNorm, SiLU
from narrowgauge.nn.activations.known import GatedMLP, LlamaRMSNorm, compressed_class
from narrowgauge.train import LlamaConfig
from narrowgauge.train.model import MLP


class HubMLP(nn.Module):
    """A gated MLP as other libraries write it."""

    def __init__(self, activation: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(12, 20, bias=bias), nn.Linear(12, 20, bias=bias)
        self.down_proj = nn.Linear(20, 12, bias=bias)
        self.act_fn = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class ScaledMLP(HubMLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.5


class MoreInputs(HubMLP):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x) * mask


class HubRMSNorm(nn.Module):
    """RMSNorm as other libraries write it."""

    def __init__(self, plus_one: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(12))
        self.variance_epsilon, self.plus_one = 1e-6, plus_one

    def forward(self, hidden_states: Tensor) -> Tensor:
        dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return (self.weight + self.plus_one) * hidden_states.to(dtype)


class Renamed(nn.RMSNorm):
    """A subclass may compute anything."""


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.RMSNorm(8), RMSNorm),
        (nn.LayerNorm(8), LayerNorm),
        (nn.GELU("tanh"), GELU),
        (nn.SiLU(), SiLU),
        (nn.SiLU(inplace=True), None),
        (nn.Linear(8, 8), None),
        (nn.BatchNorm1d(8), None),
        (Renamed(8), None),
        (RMSNorm(8), None),
        (MLP(LlamaConfig(dim=8, num_layers=1, num_heads=1, num_kv_heads=1, ffn_dim=16, max_seq_len=4)), GatedMLP),
        (HubMLP(nn.SiLU()), GatedMLP),
        (HubMLP(nn.SiLU(), bias=True).to(torch.bfloat16), GatedMLP),
        (HubMLP(nn.SiLU()).to("meta"), GatedMLP),
        (HubMLP(nn.GELU()), None),
        (ScaledMLP(nn.SiLU()), None),
        (MoreInputs(nn.SiLU()), None),
        (HubRMSNorm(), LlamaRMSNorm),
        (HubRMSNorm(plus_one=True), None),
    ],
)
def test_modules_that_compute_a_known_formula(module: nn.Module, expected: type[nn.Module] | None) -> None:
    before = {name: (id(p), p._version) for name, p in module.named_parameters()}
    assert compressed_class(module) is expected
    assert {name: (id(p), p._version) for name, p in module.named_parameters()} == before


def test_projections_may_be_quantised() -> None:
    mlp = HubMLP(nn.SiLU())
    mlp.gate_proj = QuantLinear.from_linear(mlp.gate_proj, "fp8_row")
    assert compressed_class(mlp) is GatedMLP


def test_patched_forward_is_left_alone() -> None:
    norm = nn.RMSNorm(8)
    norm.forward = lambda x: x  # type: ignore[method-assign]
    assert compressed_class(norm) is None


def test_hooks_do_not_run_while_a_module_is_examined() -> None:
    mlp, calls = HubMLP(nn.SiLU()), []
    mlp.register_forward_hook(lambda *args: calls.append(args))
    assert compressed_class(mlp) is GatedMLP
    assert calls == []
    mlp(torch.ones(1, 12))
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("module", [HubMLP(nn.SiLU()), HubRMSNorm()])
def test_new_class_computes_the_same_bits(module: nn.Module, dtype: torch.dtype) -> None:
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    module = module.to(dtype)
    plain, expected = type(module), module(x)
    found = compressed_class(module)
    assert found is not None
    module.__class__ = found
    module.keep_under("int8/1x128")
    actual = module(x)
    module.__class__ = plain
    assert torch.equal(actual, expected)
    assert actual.grad_fn is not None
    grads = [torch.autograd.grad(y.float().square().sum(), x)[0].float() for y in (actual, expected)]
    assert F.cosine_similarity(*(g.flatten() for g in grads), dim=0) > 0.999
