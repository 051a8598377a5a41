"""One set of weights from several: averages and interpolations of state dicts, tensor by tensor.

::

    average        Σ_i w_i θ_i / Σ_i w_i                                     (model soups, arXiv:2203.05482)
    interpolate    (1 - t) θ_a + t θ_b;  as θ_a ← … it is an exponential moving average with decay 1 - t
    slerp          sin((1 - t) Ω) / sin Ω · θ_a + sin(t Ω) / sin Ω · θ_b,    cos Ω = ⟨θ_a, θ_b⟩ / (|θ_a| |θ_b|)

Spherical interpolation takes each tensor as one vector and turns it at an even rate; where the two are (nearly)
parallel, opposite, or one is 0, the arc is not defined or not to be told from the line, which is taken instead.

All is computed in float64; the result has the states' dtypes. Tensors that hold no floating-point numbers
(counters, codes) cannot be averaged: they must be equal.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]
PARALLEL = 0.9995
"""Above this ``|cos Ω|`` the spherical interpolation is the line."""


def average(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """The mean of one or more states; ``weights`` are not negative, and their sum need not be 1 (``None``: equal).

    Raises ``ValueError`` for no states, other numbers of weights, and states that do not belong together.
    """
    shares = [1.0] * len(states) if weights is None else [float(weight) for weight in weights]
    if not states or len(shares) != len(states):
        raise ValueError(f"states, weights: expected as many of both, at least 1; got {len(states)} and {len(shares)}")
    total = sum(shares)
    if min(shares) < 0 or not total > 0:
        raise ValueError(f"weights: expected numbers of at least 0, not all 0; got {shares}")
    merged = {}
    for name in _names(states):
        tensors = [state[name] for state in states]
        if tensors[0].is_floating_point():
            summed = sum((t.double() * share for t, share in zip(tensors, shares, strict=True)), start=torch.zeros(()))
            merged[name] = (summed / total).to(tensors[0].dtype)
        else:
            merged[name] = tensors[0].clone()
    return merged


def interpolate(start: State, end: State, t: float) -> dict[str, Tensor]:
    """The point at ``t`` on the line from ``start`` (0) to ``end`` (1); beyond [0, 1] it extrapolates."""
    return {
        name: torch.lerp(start[name].double(), end[name].double(), t).to(start[name].dtype)
        if start[name].is_floating_point()
        else start[name].clone()
        for name in _names((start, end))
    }


def slerp(start: State, end: State, t: float) -> dict[str, Tensor]:
    """The point at ``t`` on the arc from ``start`` (0) to ``end`` (1), for each tensor."""
    return {
        name: _slerp(start[name].double(), end[name].double(), t).to(start[name].dtype)
        if start[name].is_floating_point()
        else start[name].clone()
        for name in _names((start, end))
    }


def _slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    norms = start.norm() * end.norm()
    cosine = float((start * end).sum() / norms) if norms > 0 else 1.0
    if abs(cosine) > PARALLEL:
        return torch.lerp(start, end, t)
    angle = torch.tensor(cosine, dtype=torch.float64).acos().to(start.device)
    return (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()


def _names(states: Sequence[State]) -> list[str]:
    """The names that all states have; ``ValueError`` that names what does not belong together."""
    first = states[0]
    for index, state in enumerate(states[1:], start=1):
        if differing := sorted(first.keys() ^ state.keys()):
            raise ValueError(f"states: {differing[0]!r} is not in both the first and state {index}")
        for name, tensor in first.items():
            other = state[name]
            if tensor.shape != other.shape or tensor.dtype != other.dtype:
                raise ValueError(
                    f"states: {name!r} is {tensor.dtype} {list(tensor.shape)} in the first, {other.dtype}"
                    f" {list(other.shape)} in state {index}"
                )
            if not tensor.is_floating_point() and not torch.equal(tensor, other):
                raise ValueError(f"states: {name!r} is {tensor.dtype}, which cannot be averaged, and differs")
    return list(first)
