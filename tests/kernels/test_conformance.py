"""Every implementation of every operator, on every sample, against its reference: bit for bit, or within its bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels import OPS, Op, get_op
from narrowgauge.kernels.op import ErrorBound, Sample

CASES = [(op, impl) for op in sorted(OPS) for impl in ("torch", "triton", "dispatcher")]


def clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device).copy_(value)
    return [clone(item) for item in value] if isinstance(value, list | tuple) else value


def argument_names(op: Op) -> list[str]:
    schema = getattr(torch.ops.narrowgauge, op.name).default._schema
    return [argument.name for argument in schema.arguments]


def flatten(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [] if values is None else [leaf for value in values for leaf in flatten(value)]


def run(op: Op, function: Callable[..., Any], sample: Sample) -> list[Tensor]:
    """The results of one call: what it returns, or what it has written for an op that works in place."""
    args = clone(list(sample.args))
    returned = function(*args)
    if op.mutates and function is not op.reference:
        return flatten([args[argument_names(op).index(name)] for name in op.mutates])
    return flatten(returned)


def compare(op: Op, sample: Sample, actual: list[Tensor], expected: list[Tensor]) -> None:
    assert [a.shape for a in actual] == [e.shape for e in expected], f"{op.name} on {sample.name!r}"
    if isinstance(op.bound, ErrorBound) and op.bound.values is not None:
        assert [a.dtype for a in actual] == [e.dtype for e in expected], f"{op.name} on {sample.name!r}"
        actual, expected = (list(op.bound.values(sample.args, results)) for results in (actual, expected))
    tolerance = op.bound.tolerance(*sample.args) if isinstance(op.bound, ErrorBound) else None
    bounds = tolerance if isinstance(tolerance, list | tuple) else [tolerance] * len(expected)
    for position, (a, e, bound) in enumerate(zip(actual, expected, bounds, strict=True)):
        where = f"{op.name} on {sample.name!r}, result {position}"
        assert tuple(a.shape) == tuple(e.shape), where
        got, want = a.detach().cpu().double().numpy(), e.detach().cpu().double().numpy()
        if bound is None:
            assert a.dtype == e.dtype, where
            same = (got == want) & (np.signbit(got) == np.signbit(want)) | (np.isnan(got) & np.isnan(want))
        else:
            limit = bound.double().cpu().numpy() if isinstance(bound, Tensor) else np.asarray(bound)
            with np.errstate(invalid="ignore"):  # infinities are equal or not, and have no difference
                same = (np.abs(got - want) <= limit) | (got == want) | (np.isnan(got) & np.isnan(want))
        if not same.all():
            first = np.argwhere(~same)[0].tolist()
            index = tuple(first)
            count = int((~same).sum())
            pytest.fail(f"{where}: {count} of {same.size}, first at {first}: {got[index]} not {want[index]}")


def samples(op: Op, device: str) -> Iterator[Sample]:
    return op.samples(np.random.default_rng(7), device)


@pytest.mark.parametrize(("name", "implementation"), CASES, ids=[f"{n}-{i}" for n, i in CASES])
def test_implementation_agrees_with_reference(
    name: str, implementation: str, device: torch.device, poisoned_empty: None
) -> None:
    op = get_op(name)
    if device.type == "cuda" and implementation == "torch":
        pytest.skip("gpu run: the torch implementation serves the CPU")
    function = op if implementation == "dispatcher" else op.implementation(implementation)
    count = 0
    for cpu_sample, sample in zip(samples(op, "cpu"), samples(op, device.type), strict=True):
        if implementation != "torch" and op.unsupported(*sample.args) is not None:
            continue
        # The interpreter computes in numpy, which warns where the arithmetic of NaN and infinity is meant.
        with np.errstate(all="ignore"):
            actual = run(op, function, sample)
        compare(op, sample, actual, run(op, op.reference, cpu_sample))
        count += 1
    assert count >= 10


def apart(values: Tensor) -> Tensor:
    """The same values, between others in memory."""
    wide = values.new_full((*values.shape[:-1], 2 * values.shape[-1] + 1), 77)
    view = wide[..., 1::2]
    view.copy_(values)
    return view


@pytest.mark.parametrize("implementation", ["torch", "triton"])
@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if not op.mutates))
def test_every_tensor_may_have_gaps_between_its_elements(name: str, implementation: str, device: torch.device) -> None:
    if device.type == "cuda" and implementation == "torch":
        pytest.skip("gpu run: the torch implementation serves the CPU")
    op, seen = get_op(name), set()
    for sample in samples(op, device.type):
        tensors = {place: arg for place, arg in enumerate(sample.args) if isinstance(arg, Tensor)}
        if sum(arg.numel() for arg in tensors.values()) > 30_000 or op.unsupported(*sample.args) is not None:
            continue
        for place, tensor in tensors.items():
            if place in seen or tensor.dim() == 0 or tensor.shape[-1] < 2 or tensor.numel() == 0:
                continue
            seen.add(place)
            moved = Sample(sample.name, (*sample.args[:place], apart(tensor), *sample.args[place + 1 :]))
            with np.errstate(all="ignore"):
                actual = run(op, op.implementation(implementation), moved)
            compare(op, moved, actual, run(op, op.reference, sample))
    assert seen


@pytest.mark.parametrize("name", sorted(OPS))
def test_cost_is_positive_and_grows_with_the_data(name: str) -> None:
    costs = [OPS[name].cost(*sample.args) for sample in samples(OPS[name], "cpu")]
    assert all(cost.bytes >= 0 and cost.flops >= 0 for cost in costs)
    assert max(cost.bytes for cost in costs) > 1000


@pytest.mark.parametrize("name", sorted(OPS))
def test_opcheck_passes_on_every_tenth_sample(name: str) -> None:
    op = OPS[name]
    target = getattr(torch.ops.narrowgauge, name).default
    checked = 0
    for sample in list(samples(op, "cpu"))[::10]:
        # opcheck compares results with ==, so it cannot pass where one is NaN.
        if not any(torch.isnan(result.double()).any() for result in run(op, op, sample)):
            torch.library.opcheck(target, tuple(clone(list(sample.args))))
            checked += 1
    assert checked >= 3


def test_unknown_operator_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'quantize'"):
        get_op("quantise")


def test_implementation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="reference, torch, triton"):
        get_op("quantize").implementation("cuda")
