"""The elementwise optimizers with plain float32 states against torch.optim, and what they share in every codec."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.kernels.codecs import CODECS
from narrowgauge.optim import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from optimizer_steps import gaussian

SHAPES = ((30, 17), (129,), (), (5, 3, 2))


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i).to(dtype)) for i, shape in enumerate(SHAPES)]


def train(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for i, p in enumerate(params):
            p.grad = (0.1 * gaussian(*p.shape, seed=1000 * step + i)).to(p.dtype)
        optimizer.step()


PAIRS: list[tuple[Any, Any, dict[str, Any]]] = [
    (AdamW, torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    (Adam, torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.95)}),
    (Adam, torch.optim.Adam, {"maximize": True}),
    (SGD, torch.optim.SGD, {"lr": 0.1}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (RMSprop, torch.optim.RMSprop, {}),
    (RMSprop, torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1, "eps": 1e-3}),
    (Adagrad, torch.optim.Adagrad, {"lr": 0.1}),
    (Adagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1}),
]
EVERY: list[tuple[Any, dict[str, Any]]] = [
    (AdamW, {"lr": 1e-2}), (AdamW, {"lr": 1e-2, "bitsandbytes_order": True}), (Adam, {"lr": 1e-2}),
    (Lion, {"lr": 1e-3}), (SGD, {"lr": 0.1, "momentum": 0.9}), (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}), (RMSprop, {}), (RMSprop, {"momentum": 0.9}), (Adagrad, {}),
]  # fmt: skip


def identity(case: Any) -> str:
    return "-".join([case[0].__name__, *(f"{k}={v}" for k, v in case[-1].items())])


@pytest.mark.parametrize("case", PAIRS, ids=identity)
def test_fp32_states_follow_torch(case: Any) -> None:
    """Ten steps: a few ulps of the largest weights, because additions and multiplications contract differently."""
    ours, theirs, options = case
    params, twins = parameters(), parameters()
    train(ours(params, state="fp32", **options), params, range(1, 11))
    train(theirs(twins, **options), twins, range(1, 11))
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", EVERY, ids=identity)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_step_in_float32(case: Any, dtype: torch.dtype) -> None:
    make, options = case
    params = parameters(dtype)
    twins = [nn.Parameter(p.detach().float()) for p in params]
    one, other = make(params, state="fp32", **options), make(twins, state="fp32", **options)
    for i, (p, q) in enumerate(zip(params, twins, strict=True)):
        p.grad = (0.1 * gaussian(*p.shape, seed=i)).to(dtype)
        q.grad = p.grad.float()
    one.step()
    other.step()
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q.to(dtype))


@pytest.mark.parametrize("state", [*CODECS, ("nf4/1x64", "udynamic8/1x256")], ids=str)
@pytest.mark.parametrize("case", EVERY, ids=identity)
def test_every_codec_steps_near_fp32(case: Any, state: Any) -> None:
    """Five steps with states in few bits stay within a fraction of the way that exact states go."""
    make, options = case
    params, twins = parameters(), parameters()
    train(make(params, state=state, **options), params, range(1, 6))
    train(make(twins, state="fp32", **options), twins, range(1, 6))
    loose = make is Lion or "4" in str(state) or state == "solo"  # a sign, and 4 bits and fewer, move far
    for p, q, start in zip(params[:2], twins[:2], parameters()[:2], strict=True):
        assert torch.isfinite(p).all()
        assert (p - q).norm() < (0.8 if loose else 0.1) * (q - start).norm()


@pytest.mark.parametrize("case", EVERY, ids=identity)
@pytest.mark.parametrize("master", ["sr", "residual"])
def test_masters_follow_the_float32_run(case: Any, master: str) -> None:
    make, options = case
    params = parameters(torch.bfloat16)
    twins = [nn.Parameter(p.detach().float()) for p in params]
    one, other = make(params, state="fp32", master=master, **options), make(twins, state="fp32", **options)
    for step in range(1, 6):
        for i, (p, q) in enumerate(zip(params, twins, strict=True)):
            p.grad = (0.1 * gaussian(*p.shape, seed=1000 * step + i)).to(p.dtype)
            q.grad = p.grad.float()
        one.step()
        other.step()
    for p, q in zip(params, twins, strict=True):
        # Five roundings of less than an ulp, of weights that five steps move by 0.3 at most.
        assert ((p.float() - q).abs() <= 5 * 2.0**-7 * (q.abs() + 0.3)).all()


def test_one_moment_is_one_moment_of_memory() -> None:
    def size(make: Any, **options: Any) -> float:
        p = nn.Parameter(gaussian(256, 256))
        p.grad = gaussian(256, 256, seed=1)
        optimizer = make([p], **options)
        optimizer.step()
        return (optimizer.state_bytes().total - 4) / 65536  # without `step`

    assert size(Lion, state="fp8") == size(RMSprop, state="fp8") == size(Adagrad, state="fp8") == 1 + 4 / 256
    assert size(RMSprop, state="fp8", momentum=0.9) == 2 + 8 / 256
    assert size(SGD) == 0.0
    assert size(SGD, momentum=0.9, state="log8") == 1 + 2 / 128
    assert size(AdamW, state="log8") <= 2.07
    assert size(AdamW, state="coat") <= 2.2
    assert size(AdamW, state="log4") <= 1.15


@pytest.mark.parametrize(("make", "options", "text"), [
    (RMSprop, {"alpha": 1.0}, "alpha: got 1.0"), (SGD, {"nesterov": True}, "nesterov: needs momentum > 0"),
    (SGD, {"momentum": -0.1}, "momentum: got -0.1"), (Adagrad, {"lr_decay": -1}, "lr_decay: got -1"),
    (Lion, {"betas": (1.0, 0.9)}, "betas: got"), (Adam, {"eps": -1.0}, "eps: got -1.0"),
    (SGD, {"master": "eco:e4m3fn/1x128"}, "needs momentum > 0 and nesterov=False"),
    (AdamW, {"master": "eco:e9m9/1x128"}, "master: 'eco:e9m9/1x128'"),
    (AdamW, {"master": "eco:e4m3fn/1x128+sr"}, "rounds stochastically"),
    (Lion, {"master": "eco:e4m3fn/1x128"}, "accepted are none, sr, residual$"),
])  # fmt: skip
def test_options_out_of_range_are_named(make: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make([nn.Parameter(torch.ones(3))], **options)


@pytest.mark.parametrize("case", EVERY, ids=identity)
def test_capturable_steps_give_the_same_bits(case: Any) -> None:
    """Rows built by tensor operations, keys of stochastic rounding included."""
    make, options = case
    if make is SGD and "momentum" not in options:
        with pytest.raises(ValueError, match=r"capturable: .*without momentum"):
            make(parameters(), capturable=True, **options)
        return
    params, twins = parameters(torch.bfloat16), parameters(torch.bfloat16)
    state = "bf16_sr" if make is RMSprop else "log8"
    one = make(params, state=state, master="sr", capturable=True, **{**options, "lr": torch.tensor(0.0625)})
    other = make(twins, state=state, master="sr", **{**options, "lr": 0.0625})
    train(one, params, range(1, 5))
    train(other, twins, range(1, 5))
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("case", EVERY, ids=identity)
@pytest.mark.parametrize("state", ["log8", "int4"])
def test_offloaded_states_give_the_same_bits_on_a_cpu(case: Any, state: str) -> None:
    make, options = case
    params, twins = parameters(torch.bfloat16), parameters(torch.bfloat16)
    train(make(params, state=state, master="residual", offload=True, **options), params, range(1, 4))
    train(make(twins, state=state, master="residual", **options), twins, range(1, 4))
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)


@pytest.mark.gpu
@pytest.mark.parametrize("state", ["log8", "coat", "int4"])
def test_offloaded_states_of_a_gpu_live_on_the_host(state: str) -> None:
    """The step is the CPU's: the same bits as a CPU's parameters, but for codecs that stream to the GPU."""
    params, twins = [nn.Parameter(p.detach().cuda()) for p in parameters()], parameters()
    one, other = AdamW(params, state=state, offload=True), AdamW(twins, state=state)
    for step in range(1, 4):
        for i, (p, q) in enumerate(zip(params, twins, strict=True)):
            q.grad = 0.1 * gaussian(*q.shape, seed=1000 * step + i)
            p.grad = q.grad.cuda()
        one.step()
        other.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=0.0, atol=1e-3 if state == "int4" else 0.0)
        assert all(t.device.type == "cpu" for t in one.state[p].values())
        assert one.state[p]["exp_avg"].ndim == 0 or one.state[p]["exp_avg"].is_pinned()


@pytest.mark.gpu
@pytest.mark.parametrize("case", EVERY, ids=identity)
def test_a_gpu_steps_as_a_cpu_does(case: Any) -> None:
    make, options = case
    params, twins = [nn.Parameter(p.detach().cuda()) for p in parameters(torch.bfloat16)], parameters(torch.bfloat16)
    one, other = (make(group, state="log8", master="residual", clip_norm=1.0, **options) for group in (params, twins))
    for step in range(1, 4):
        for i, (p, q) in enumerate(zip(params, twins, strict=True)):
            q.grad = (0.1 * gaussian(*q.shape, seed=1000 * step + i)).bfloat16()
            p.grad = q.grad.cuda()
        one.step()
        other.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=2.0**-7, atol=1e-4)


@pytest.mark.gpu
def test_a_captured_step_replays_with_the_bits_of_eager_steps() -> None:
    def make() -> tuple[list[nn.Parameter], AdamW]:
        params = [nn.Parameter(p.detach().cuda()) for p in parameters(torch.bfloat16)]
        for i, p in enumerate(params):
            p.grad = gaussian(*p.shape, seed=9 + i).bfloat16().cuda()
        rate = torch.tensor(0.0625, device="cuda")
        optimizer = AdamW(params, rate, state="log8", master="sr", clip_norm=1.0, capturable=True)
        return params, optimizer

    params, captured = make()
    twins, eager = make()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        captured.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        eager.step()
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
