"""Runs a linear layer forward and backward, and hands out numpy: the only part of the module check that sees torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.numerics._arrays import FloatArray, as_float64
from narrowgauge.numerics.gemms.precision import rounded

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ModuleCase:
    """One call. x: [..., K], g: [..., N], float32 arrays whose values `dtype` holds. train: the mode. needs: whether
    gradients of input and weight are asked for. turned: x comes as a transposed view."""

    name: str
    x: NDArray[np.float32]
    g: NDArray[np.float32]
    dtype: str = "float32"
    train: bool = True
    needs: tuple[bool, bool] = (True, True)
    turned: bool = False


@dataclass(frozen=True)
class ModuleResult:
    """Outputs as float64, [T, N], [T, K], [N, K] and [N]; None where there is none. dtypes, shapes: as returned."""

    y: FloatArray
    grad_x: FloatArray | None
    grad_w: FloatArray | None
    grad_b: FloatArray | None
    dtypes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def as_layer(module: Any) -> Any:
    """A deep copy of the module. TypeError unless it is a torch module with a matrix `weight` [N, K]."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, accepted: a torch.nn.Module with `weight` [N, K]")
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        raise TypeError(
            f"module: {type(module).__name__} has no matrix `weight`, accepted: linear layers, Y = X·Wᵀ + b"
        )
    return copy.deepcopy(module)


def in_dtype(layer: Any, dtype: str) -> Any:
    """A copy of the layer with parameters of `dtype`."""
    import torch

    return copy.deepcopy(layer).to(getattr(torch, dtype))


def parameters(layer: Any) -> tuple[Array, Array | None]:
    """Weight and bias as float32, which holds every dtype that layers are checked in."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    held = None if bias is None else as_float64(bias, "bias").astype(np.float32)
    return as_float64(weight, "weight").astype(np.float32), held


def state_bytes(layer: Any) -> dict[str, bytes]:
    """Parameters and floating buffers, bit by bit; integer buffers may be counters."""
    state = {name: t.detach().cpu() for name, t in (*layer.named_parameters(), *layer.named_buffers())}
    return {name: t.double().numpy().tobytes() for name, t in state.items() if t.is_floating_point()}


def run(layer: Any, case: ModuleCase) -> ModuleResult:
    """One forward and backward. The layer's own gradients are cleared before and after."""
    import torch

    dtype, device = getattr(torch, case.dtype), layer.weight.device
    x = torch.from_numpy(case.x).to(device, dtype)
    if case.turned:
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    x.requires_grad_(case.needs[0])
    bias = getattr(layer, "bias", None)
    layer.train(case.train)
    layer.weight.requires_grad_(case.needs[1])
    for parameter in layer.parameters():
        parameter.grad = None
    y = layer(x)
    if y.requires_grad:
        y.backward(torch.from_numpy(case.g).to(device, dtype))
    named = {"y": y, "grad_x": x.grad, "grad_w": layer.weight.grad, "grad_b": None if bias is None else bias.grad}
    given = {name: t for name, t in named.items() if t is not None}
    for parameter in layer.parameters():
        parameter.grad = None
    flat = {name: as_float64(t, name).reshape(-1, t.shape[-1]) for name, t in given.items() if t.dim()}
    return ModuleResult(
        flat["y"], flat.get("grad_x"), flat.get("grad_w"), None if "grad_b" not in flat else flat["grad_b"].reshape(-1),
        {name: str(t.dtype).removeprefix("torch.") for name, t in given.items()},
        {name: tuple(t.shape) for name, t in given.items()},
    )  # fmt: skip


def module_cases(k: int, n: int, dtypes: Sequence[str], inputs: Array | None, seed: int) -> list[ModuleCase]:
    """Ragged, batched, zero, tiny and partly frozen calls of a layer with K inputs and N outputs."""
    rng = np.random.default_rng(seed)

    def case(name: str, *leading: int, dtype: str = "float32", size: float = 1.0, **options: Any) -> ModuleCase:
        x, g = rng.standard_normal((*leading, k)), size * rng.standard_normal((*leading, n))
        x[..., k // 2] *= 8.0
        return ModuleCase(name, _held(x, dtype), _held(g, dtype), dtype, **options)

    cases = [case(f"{t} tokens, {dtype}", t, dtype=dtype) for dtype in dtypes for t in (1, 7, 33)]
    main = dtypes[0]
    usual = case("13 tokens", 13, dtype=main)
    zeros = np.zeros_like(usual.g)
    cases += [
        case("batched input [2, 3, K]", 2, 3, dtype=main),
        case("gradients near 1e-6", 17, dtype=main, size=1e-6),
        replace(usual, name="zero gradient", g=zeros),
        replace(usual, name="zero input", x=np.zeros_like(usual.x)),
        replace(usual, name="no input gradient", needs=(False, True)),
        replace(usual, name="frozen weight", needs=(True, False)),
        replace(usual, name="evaluation mode", train=False),
        replace(usual, name="transposed view", turned=True),
    ]
    if inputs is not None:
        x = _held(np.asarray(inputs), main)
        cases.append(ModuleCase("given inputs", x, _held(rng.standard_normal((*x.shape[:-1], n)), main), main))
    return cases


def _held(x: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """`x` as float32, rounded to what `dtype` holds."""
    return np.asarray(rounded(np.asarray(x, dtype=np.float64), dtype), dtype=np.float32)
