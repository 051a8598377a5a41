"""Which modules of a model become ones that keep their inputs compressed, and how: by changing the class.

The module stays the same object, with its parameters, children, hooks and `state_dict` keys. The classes of torch.nn
are known by name. Gated MLPs and RMSNorms of other libraries are known by what they compute: a small copy of the
module, of a few features, must give the very bits of the formula.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.nn.activations import operations
from narrowgauge.nn.activations.modules import GELU, KeepsCompressed, LayerNorm, RMSNorm, SiLU

WIDTH = 8
"""Features of the small copies."""
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
PLAIN: dict[type[nn.Module], type[KeepsCompressed]] = {
    nn.RMSNorm: RMSNorm,
    nn.LayerNorm: LayerNorm,
    nn.GELU: GELU,
    nn.SiLU: SiLU,
}


class GatedMLP(KeepsCompressed):
    """x [..., dim] → down_proj(silu(gate_proj(x))·up_proj(x)), of which gate and up are kept under `scheme`."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """As the module was before."""
        hidden = self._kept(operations.SwiGLU(), self.gate_proj(x), self.up_proj(x))
        out: Tensor = self.down_proj(hidden)
        return out


class LlamaRMSNorm(KeepsCompressed):
    """x [..., dim] normalised in float32, rounded to its dtype, times `weight` [dim]; x is kept under `scheme`."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As the module was before."""
        operation = operations.LlamaRMSNorm(tuple(self.weight.shape), self.variance_epsilon)
        return self._kept(operation, hidden_states, self.weight)


def compressed_class(module: nn.Module) -> type[KeepsCompressed] | None:
    """The class that computes what `module` does and keeps its inputs compressed; None if there is none."""
    if isinstance(module, KeepsCompressed) or "forward" in vars(module):  # a patched forward is not the class's
        return None
    if type(module) in PLAIN:
        return None if getattr(module, "inplace", False) else PLAIN[type(module)]
    if _computes(_small_mlp, _mlp_formula, module):
        return GatedMLP
    if _computes(_small_norm, _norm_formula, module):
        return LlamaRMSNorm
    return None


def _computes(
    shrink: Callable[[nn.Module, torch.dtype], nn.Module | None],
    formula: Callable[[nn.Module, Tensor], Tensor],
    module: nn.Module,
) -> bool:
    """Whether a small copy of `module` gives the bits of `formula`, in float32 and in bfloat16."""
    x = torch.linspace(-3.0, 3.0, 3 * WIDTH).reshape(3, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for dtype in (torch.float32, torch.bfloat16):
            small = shrink(module, dtype)
            if small is None:
                return False
            try:
                out = small(x.to(dtype))
            except Exception:  # a stranger's forward may raise anything; whatever it does, it is not the formula
                return False
            if not isinstance(out, Tensor) or not torch.equal(out, formula(small, x.to(dtype))):
                return False
    return True


def _small_copy(module: nn.Module) -> nn.Module:
    """A copy of the module, without its hooks, whose parameters and children can be exchanged."""
    small = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):
            vars(small)[name] = type(value)() if name.endswith("_hooks") else value.copy()
    return small


def _small_mlp(module: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    children = dict(module.named_children())
    others = [child for name, child in children.items() if name not in PROJECTIONS]
    if not all(isinstance(children.get(name), nn.Linear) for name in PROJECTIONS):
        return None
    if list(module.parameters(recurse=False)) or any(list(child.parameters()) for child in others):
        return None
    small = _small_copy(module)
    for number, name in enumerate(PROJECTIONS):
        linear = nn.Linear(WIDTH, WIDTH, bias=False, device="meta")
        weight = torch.linspace(-1.0 - number, 1.0, WIDTH * WIDTH).sin().reshape(WIDTH, WIDTH)
        linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        setattr(small, name, linear)
    return small


def _mlp_formula(small: nn.Module, x: Tensor) -> Tensor:
    gate, up, down = (small.get_submodule(name) for name in PROJECTIONS)
    out: Tensor = down(F.silu(gate(x)) * up(x))
    return out


def _small_norm(module: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    own = dict(module.named_parameters(recurse=False))
    epsilon = getattr(module, "variance_epsilon", None)
    if list(own) != ["weight"] or own["weight"].dim() != 1 or list(module.children()) or not isinstance(epsilon, float):
        return None
    small = _small_copy(module)
    small.weight = nn.Parameter(torch.linspace(0.3, 1.7, WIDTH).to(dtype), requires_grad=False)
    return small


def _norm_formula(small: nn.Module, x: Tensor) -> Tensor:
    operation = operations.LlamaRMSNorm((WIDTH,), float(small.variance_epsilon))  # type: ignore[arg-type]
    return operation(x, small.get_parameter("weight"))
