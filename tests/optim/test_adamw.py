"""AdamW: torch's semantics, every codec in training, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.formats import CodebookFormat, Scheme
from narrowgauge.kernels.codecs import CODECS
from narrowgauge.optim import AdamW
from optimizer_steps import gaussian
from seeded_training import set_gradients, train

MINE = Scheme(CodebookFormat.from_values([0.0, *(2.0 ** (-i / 8) for i in range(255))], "log_state"), (1, 64))
STATES = (*CODECS, ("dynamic8", "coat"), ("hif8/1x128", MINE))


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i).to(dtype)) for i, shape in enumerate([(30, 17), (129,), (), (0, 3)])]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    ("lr", "betas", "eps", "decay"), [(1e-3, (0.9, 0.999), 1e-8, 1e-2), (0.1, (0.4, 0.95), 1e-3, 0)]
)
def test_fp32_state_gives_the_bits_of_torchs_fused_adamw(
    lr: float, betas: tuple[float, float], eps: float, decay: float, maximize: bool
) -> None:
    ours, theirs = parameters(), parameters()
    theirs.pop()  # torch's fused step does not take empty parameters
    reference = torch.optim.AdamW(theirs, lr, betas, eps, decay, fused=True, maximize=maximize)
    train(AdamW(ours, lr, betas, eps, decay, state="fp32", maximize=maximize), ours, range(1, 11))
    train(reference, theirs, range(1, 11))
    for p, q in zip(ours, theirs, strict=False):
        whole = p.numel() // 16 * 16  # torch steps the end of a tensor by other instructions, an ulp apart
        assert torch.equal(p.flatten()[:whole], q.flatten()[:whole])
        torch.testing.assert_close(p, q, rtol=0.0, atol=2.0**-20)


def test_fp32_state_is_torchs_default_adamw_up_to_rounding() -> None:
    ours, theirs = [nn.Parameter(gaussian(100_003))], [nn.Parameter(gaussian(100_003))]
    a, b = AdamW(ours, state="fp32"), torch.optim.AdamW(theirs)
    for step in range(1, 4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        a.step()
        b.step()
        # One ulp of p, whose magnitude is below 8; how many elements differ depends on the machine's instructions.
        torch.testing.assert_close(ours[0], theirs[0], rtol=0.0, atol=2.0**-21)


@pytest.mark.parametrize("state", STATES)
def test_every_state_learns_a_regression(state: Any) -> None:
    x, w = gaussian(512, 16), gaussian(16, 4, seed=1)
    y = x @ w
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.2 * gaussian(*p.shape, seed=10 + i))
    optimizer = AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), state=state)
    first = None
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        first = first or loss.item()
        loss.backward()
        optimizer.step()
    assert loss.item() < (0.05 if state in ("int4", "solo") else 0.01) * first


@pytest.mark.parametrize("state", ["coat", "dynamic8", "int8", ("fp8", "coat")])
def test_compressed_run_stays_close_to_fp32(state: Any) -> None:
    ours, theirs = [nn.Parameter(gaussian(40, 50))], [nn.Parameter(gaussian(40, 50))]
    a, b = AdamW(ours, betas=(0.9, 0.95), state=state), AdamW(theirs, betas=(0.9, 0.95), state="fp32")
    train(a, ours, range(1, 31))
    train(b, theirs, range(1, 31))
    start = gaussian(40, 50)
    assert (ours[0] - theirs[0]).norm() < 0.05 * (theirs[0] - start).norm()
    for one, other in zip(a.moments(ours[0]), b.moments(theirs[0]), strict=True):
        assert (one - other).norm() < 0.08 * other.norm()


@pytest.mark.parametrize(("state", "expected"), [
    ("coat", 2.125), ("fp8", 2.03125), ("int8", 2.0625), ("dynamic8", 2.03125), ("bf16", 4.0), ("fp32", 8.0),
    (("dynamic8", "coat"), 2.078125),
])  # fmt: skip
def test_state_bytes_counts_what_is_stored(state: Any, expected: float) -> None:
    p = nn.Parameter(gaussian(256, 256))
    optimizer = AdamW([p], state=state)
    assert optimizer.state_bytes() == (0, 0)
    assert optimizer.state_bytes().per_parameter == 0.0
    p.grad = gaussian(256, 256, seed=1)
    optimizer.step()
    size = optimizer.state_bytes()
    assert size.parameters == 65536
    assert size.total == expected * 65536 + 4  # and the step
    assert size.total == sum(t.nbytes for t in optimizer.state_dict()["state"][0].values())


def test_small_parameters_are_compressed_too() -> None:
    params = parameters()
    optimizer = AdamW(params)
    train(optimizer, params, range(1, 2))
    for state in optimizer.state.values():
        assert state["exp_avg"].dtype is torch.uint8
        assert state["exp_avg_sq"].dtype is torch.uint8


def test_groups_override_every_option() -> None:
    a, b = nn.Parameter(torch.ones(200)), nn.Parameter(torch.ones(200))
    optimizer = AdamW([{"params": [a]}, {"params": [b], "state": "bf16", "lr": 0.0}], lr=0.1)
    a.grad, b.grad = torch.ones(200), torch.ones(200)
    optimizer.step()
    assert optimizer.state[a]["exp_avg"].dtype is torch.uint8
    assert optimizer.state[b]["exp_avg"].dtype is torch.bfloat16
    assert (a < 0.95).all()
    assert torch.equal(b, torch.ones(200))


def test_tensor_learning_rate_and_schedulers_work() -> None:
    p, q = nn.Parameter(torch.ones(50)), nn.Parameter(torch.ones(50))
    rate = torch.tensor(0.1)
    tensor, number = AdamW([p], lr=rate), AdamW([q], lr=float(rate))
    scheduler = torch.optim.lr_scheduler.LambdaLR(number, lambda step: 0.5**step)
    for step in range(3):
        rate.fill_(float(torch.tensor(0.1)) * 0.5**step)
        p.grad, q.grad = torch.ones(50), torch.ones(50)
        tensor.step()
        number.step()
        scheduler.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=0.0)


def test_parameters_without_gradient_are_left_alone() -> None:
    p, q = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    optimizer = AdamW([p, q])
    p.grad = torch.ones(5)
    optimizer.step()
    assert torch.equal(q, torch.ones(5))
    assert q not in optimizer.state
    with pytest.raises(KeyError, match="has no state"):
        optimizer.moments(q)


def test_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    p = nn.Parameter(torch.ones(5))
    optimizer = AdamW([p])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 5.0
    assert (p < 1.0).all()


def test_strided_parameter_is_stepped_in_place() -> None:
    storage = gaussian(40, 40)
    p = nn.Parameter(storage.t()[:, ::2])
    q = nn.Parameter(p.detach().contiguous())
    p.grad = q.grad = gaussian(40, 20, seed=1)
    AdamW([p]).step()
    AdamW([q]).step()
    assert torch.equal(p, q)


def test_sparse_gradient_is_refused_by_name_before_anything_changes() -> None:
    table, other = nn.Embedding(10, 4, sparse=True), nn.Parameter(torch.ones(3))
    optimizer = AdamW([("other", other), ("table.weight", table.weight)])
    table(torch.tensor([1, 2])).sum().backward()
    other.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"'table.weight' has a torch.sparse_coo gradient; accepted are dense"):
        optimizer.step()
    assert torch.equal(other, torch.ones(3))
    assert not optimizer.state


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"lr": -1.0}, ValueError, "lr: got -1.0"),
    ({"lr": float("nan")}, ValueError, "lr: got nan"),
    ({"lr": torch.ones(2)}, ValueError, "lr: expected a number or a tensor of one element"),
    ({"betas": (0.9, 1.0)}, ValueError, r"betas: got \(0.9, 1.0\)"),
    ({"eps": -1e-8}, ValueError, "eps: got -1e-08"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay: got -0.1"),
    ({"state": "cota"}, ValueError, "state: unknown codec 'cota'; nearest: coat"),
    ({"state": 8}, TypeError, "state: expected the name of a codec"),
])  # fmt: skip
def test_options_out_of_range_are_named(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        AdamW([nn.Parameter(torch.ones(3))], **options)


def test_group_that_is_refused_is_not_added() -> None:
    optimizer = AdamW([nn.Parameter(torch.ones(3))])
    with pytest.raises(TypeError, match=r"params: parameter 0 of its group, of shape \(2,\), has dtype torch.float64"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.float64))]})
    with pytest.raises(ValueError, match="amsgrad: this optimizer does not have"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "amsgrad": True})
    assert len(optimizer.param_groups) == 1


def test_bitsandbytes_order_decays_after_the_step() -> None:
    p, g = gaussian(50), gaussian(50, seed=1)
    parameter = nn.Parameter(p.clone())
    parameter.grad = g
    AdamW([parameter], lr=0.1, weight_decay=0.5, state="fp32", bitsandbytes_order=True).step()
    stepped = p - 0.1 * g / (g.abs() + 1e-8)
    torch.testing.assert_close(parameter.detach(), stepped * (1 - 0.05), rtol=1e-5, atol=1e-6)
