"""torch.compile of a whole `optimizer.step`: one graph, no recompilation from step to step, the bits of eager steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from narrowgauge.optim import AdamW
from optimizer_steps import gaussian


def parameters(*more: tuple[int, ...]) -> list[nn.Parameter]:
    shapes = [(9, 40), (130,), *more]
    params = [nn.Parameter(gaussian(*shape, seed=i).bfloat16()) for i, shape in enumerate(shapes)]
    for i, p in enumerate(params):
        p.grad = gaussian(*p.shape, seed=9 + i).bfloat16()
    return params


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("state", "backend"), [
    ("log8", "aot_eager"), (("nf4/1x64", "coat"), "aot_eager"),
    pytest.param("log8", "inductor", marks=pytest.mark.slow), pytest.param("log4", "inductor", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_compiled_step_is_one_graph_with_the_bits_of_eager_steps(state: str | tuple[str, str], backend: str) -> None:
    torch._dynamo.reset()
    params, twins, lr = parameters(), parameters(), torch.tensor(0.0625)
    one, other = (AdamW(group, lr, state=state, master="sr", clip_norm=1.0) for group in (params, twins))
    one.step()  # states are made by eager steps
    other.step()
    counter = CompileCounterWithBackend(backend)
    step = torch.compile(one.step, fullgraph=True, backend=counter)
    for _ in range(3):
        step()
        other.step()
        lr.mul_(0.5)
    assert counter.frame_count == 1
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
    assert all(int(state["step"]) == 4 for state in one.state.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("state", ["log8", "coat", "fp32"])
def test_the_compiled_operator_steps_as_the_eager_one(state: str) -> None:
    """Logarithms and contractions of the compiler differ in last bits, and so may codes, by one."""
    params, twins = parameters((600, 128)), parameters((600, 128))  # small tensors are not worth compiling for
    one, other = AdamW(params, state=state, compiled=True), AdamW(twins, state=state)
    assert one.explain().rows[0].runs == "fused, compiled by torch.compile, on cpu"
    for _ in range(3):
        one.step()
        other.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=2.0**-7, atol=1e-5)
        for moment, twin in zip(one.moments(p), other.moments(q), strict=True):
            assert moment is not None
            assert twin is not None
            torch.testing.assert_close(moment, twin, rtol=0.1, atol=1e-3)
