"""BackSlash around optimizers: published dynamics, every optimizer and state, saving, schedules, errors."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from narrowgauge import optim
from narrowgauge.priors import fit, prune_
from narrowgauge.priors.backslash import BackSlash
from narrowgauge.priors.rate import measure_rate
from narrowgauge.priors.rate_term import RateTerm
from narrowgauge.priors.strength import Until

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3),
    "ours fp32": lambda params: optim.AdamW(params, lr=1e-3, state="fp32"),
    "ours log8": lambda params: optim.AdamW(params, lr=1e-3, state="log8"),
    "ours int8": lambda params: optim.AdamW(params, lr=1e-3, state="int8"),
    "lion coat": lambda params: optim.Lion(params, lr=1e-4, state="coat"),
    "adafactor": lambda params: optim.Adafactor(params, lr=1e-3),
}
# step -> shape, EG0 bits, entropy, share of zeros; for 200 000 weights of N(0, 0.04) with λ/N = 5e-5 and no task
DYNAMICS = {
    1.0: {
        0: (2.00, 7.35, 5.41, 0.039),
        100: (1.15, 6.21, 4.99, 0.183),
        200: (0.88, 5.50, 4.60, 0.279),
        400: (0.64, 4.55, 3.97, 0.413),
        600: (0.52, 3.91, 3.47, 0.508),
        1000: (0.39, 3.07, 2.72, 0.638),
    },
    0.01: {
        0: (2.00, 7.35, None, None),
        100: (1.98, 7.31, None, None),
        200: (1.96, 7.26, None, None),
        400: (1.90, 7.16, None, None),
        600: (1.83, 7.04, None, None),
        1000: (1.58, 6.64, None, None),
    },
}


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 8)).to(dtype)


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(1000 + step)
    dtype = next(net.parameters()).dtype
    return net(torch.randn(4, 16, generator=g).to(dtype)).float().square().mean()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, step).backward()
        optimizer.step()


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("eps", DYNAMICS)
def test_the_published_update_alone_compresses_as_derived(eps: float) -> None:
    weight = nn.Parameter(torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * 0.04)
    term = RateTerm([weight], 5e-5 * weight.numel(), eps=eps)
    for step in range(1001):
        if step in DYNAMICS[eps]:
            shape, bits, entropy, zeros = DYNAMICS[eps][step]
            found = measure_rate([weight], orders=[0])
            assert fit(weight, table=True).shape == pytest.approx(shape, abs=0.03)
            assert found.exp_golomb[0] == pytest.approx(bits, abs=0.05)
            if entropy is not None:
                assert found.entropy == pytest.approx(entropy, abs=0.05)
                assert found.zeros == pytest.approx(zeros, abs=0.01)
        term.pull()
        term.step += 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decoupled_is_the_optimizers_step_and_then_the_pull(name: str) -> None:
    plain, ours = model(), model()
    inner, wrapped = OPTIMIZERS[name](plain.parameters()), BackSlash(OPTIMIZERS[name](ours.parameters()), strength=2.0)
    for step in range(3):
        train(plain, inner, range(step, step + 1))
        everything = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
        nu = fit(everything, table=True).shape
        with torch.no_grad():
            for p in plain.parameters():
                p -= 2.0 * nu / everything.numel() * p.sign() * (p.abs() + 1.0) ** (nu - 1)
        train(ours, wrapped, range(step, step + 1))
        assert wrapped.shape == nu
        for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adamw", "ours log8"])
def test_in_loss_is_a_step_on_the_gradient_of_both(name: str, dtype: torch.dtype) -> None:
    plain, ours = model(dtype=dtype), model(dtype=dtype)
    inner = OPTIMIZERS[name](plain.parameters())
    wrapped = BackSlash(OPTIMIZERS[name](ours.parameters()), strength=2.0, mode="in_loss", eps=0.1)
    for step in range(3):
        everything = torch.cat([p.detach().double().reshape(-1) for p in plain.parameters()])
        nu = fit(everything, table=True).shape
        inner.zero_grad()
        loss_of(plain, step).backward()
        for p in plain.parameters():
            rate = 2.0 * nu / everything.numel() * p.float().sign() * (p.float().abs() + 0.1) ** (nu - 1)
            p.grad += rate.detach()
        inner.step()
        train(ours, wrapped, range(step, step + 1))
        for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_a_parameter_without_gradient_is_charged_too() -> None:
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = BackSlash(torch.optim.SGD([used, unused], lr=1.0), strength=0.6, mode="in_loss", eps=0.0)
    used.grad = torch.zeros(3)
    optimizer.step()
    assert unused.tolist() == pytest.approx([1 - 0.1 * 2.99] * 3)  # equal magnitudes: the end of the table


def test_a_closure_is_asked_once_and_its_result_is_the_objective() -> None:
    net = model()
    plain = loss_of(net, 0).item()
    for mode in ("decoupled", "in_loss"):
        ours, calls = copy.deepcopy(net), []
        optimizer = BackSlash(torch.optim.SGD(ours.parameters(), lr=0.1), strength=2.0, mode=mode)

        def closure(ours: nn.Module = ours, optimizer: Any = optimizer, calls: list[int] = calls) -> torch.Tensor:
            calls.append(1)
            optimizer.zero_grad()
            loss = loss_of(ours, 0)
            loss.backward()
            return loss.detach()

        rate = RateTerm(copy.deepcopy(net), 2.0).rate()
        result = float(optimizer.step(closure))
        assert len(calls) == 1
        assert result == pytest.approx(plain + (2.0 * rate if mode == "in_loss" else 0.0), rel=1e-5)


def test_lbfgs_lowers_the_objective() -> None:
    net = model()
    optimizer = BackSlash(torch.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe"), strength=5.0,
                          mode="in_loss")  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(net, 0)
        loss.backward()
        return loss.detach()

    first = float(optimizer.step(closure))
    assert float(optimizer.step(closure)) < first


def test_no_strength_is_the_optimizer_alone() -> None:
    plain, ours = model(), model()
    wrapped = BackSlash(torch.optim.AdamW(ours.parameters()), strength=0.0)
    train(plain, torch.optim.AdamW(plain.parameters()), range(3))
    train(ours, wrapped, range(3))
    assert_same(plain, ours)
    assert wrapped.shape is None
    assert wrapped.live() == {"strength": 0.0}


def test_the_phase_ends_and_training_goes_on_without_it() -> None:
    net = model()
    optimizer = BackSlash(torch.optim.AdamW(net.parameters(), lr=1e-3), strength=Until(3.0, 2))
    train(net, optimizer, range(2))
    plain = copy.deepcopy(net)
    inner = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    inner.load_state_dict(copy.deepcopy(optimizer.optimizer.state_dict()))
    train(net, optimizer, range(2, 5))
    train(plain, inner, range(2, 5))
    assert_same(net, plain)


def test_the_shape_is_estimated_every_so_many_steps() -> None:
    net = model()
    optimizer = BackSlash(torch.optim.SGD(net.parameters(), lr=0.5), strength=20.0, every=3, table=False)
    seen = []
    for step in range(7):
        train(net, optimizer, range(step, step + 1))
        seen.append(optimizer.shape)
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5] != seen[6]


def test_scopes_choose_who_is_pulled_and_who_shares_a_shape() -> None:
    nets = {scope: model() for scope in ("all", "matrices", "layer")}
    for scope, net in nets.items():
        optimizer = BackSlash(torch.optim.SGD(net.parameters(), lr=0.0), strength=2.0, scope=scope)
        train(net, optimizer, range(1))
        if scope == "layer":
            assert isinstance(optimizer.shape, list)
            assert optimizer.shape[0] == fit(model()[0].weight, table=True).shape
            assert optimizer.shape[2] == 2.99  # gains of one
    assert torch.equal(nets["matrices"][1].weight, torch.ones(32))
    assert (nets["all"][1].weight < 1).all()
    matrices = [nets["matrices"][i].weight for i in (0, 2)]
    before = [model()[i].weight for i in (0, 2)]
    nu = fit(torch.cat([w.reshape(-1) for w in before]), table=True).shape
    count = sum(w.numel() for w in before)
    for w, old in zip(matrices, before, strict=True):
        pulled = old - 2.0 * nu / count * old.sign() * (old.abs() + 1) ** (nu - 1)
        assert torch.allclose(w, pulled, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mode", ["decoupled", "in_loss"])
@pytest.mark.parametrize("name", ["sgd", "adamw", "ours log8", "lion coat"])
def test_a_resumed_run_has_the_same_bits(name: str, mode: str) -> None:
    straight = model()
    make = lambda net: BackSlash(OPTIMIZERS[name](net.parameters()), strength=3.0, mode=mode, every=3)  # noqa: E731
    optimizer = make(straight)
    train(straight, optimizer, range(4))
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = copy.deepcopy(straight)
    train(straight, optimizer, range(4, 8))
    again = make(resumed)
    again.load_state_dict(saved)
    assert again.shape == pytest.approx(saved["backslash"]["shapes"][0])
    train(resumed, again, range(4, 8))
    assert_same(straight, resumed)


def test_a_state_of_the_inner_optimizer_alone_starts_the_rate_anew() -> None:
    net = model()
    inner = torch.optim.AdamW(net.parameters())
    train(net, inner, range(2))
    wrapped = BackSlash(torch.optim.AdamW(net.parameters()))
    wrapped.load_state_dict(copy.deepcopy(inner.state_dict()))
    assert wrapped.term.step == 0
    first = next(net.parameters())
    assert torch.equal(wrapped.state[first]["exp_avg"], inner.state[first]["exp_avg"])


def test_a_state_of_another_kind_is_refused_and_changes_nothing() -> None:
    net = model()
    saved = BackSlash(torch.optim.SGD(net.parameters(), lr=1.0), mode="in_loss").state_dict()
    other = BackSlash(torch.optim.SGD(net.parameters(), lr=0.5))
    with pytest.raises(ValueError, match="mode: the saved BackSlash has 'in_loss', this one 'decoupled'"):
        other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.5


def test_it_is_an_optimizer_for_schedulers_hooks_and_copies() -> None:
    net = model()
    optimizer = BackSlash(torch.optim.SGD(net.parameters(), lr=1.0), strength=1.0)
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    train(net, optimizer, range(1))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == optimizer.optimizer.param_groups[0]["lr"] == 0.5
    assert seen == [1]
    assert "SGD" in repr(optimizer)
    assert isinstance(optimizer, torch.optim.Optimizer)
    fresh = BackSlash(torch.optim.SGD(net.parameters(), lr=1.0))
    twin = copy.deepcopy(fresh)
    assert twin.term.params[0] is twin.param_groups[0]["params"][0]
    assert twin.term.params[0] is not fresh.term.params[0]


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_unscales_for_it(fused: bool) -> None:
    plain, scaled = model(), model()
    optimizers = [BackSlash(torch.optim.AdamW(n.parameters(), fused=fused), strength=3.0) for n in (plain, scaled)]
    train(plain, optimizers[0], range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for step in range(2):
        optimizers[1].zero_grad()
        scaler.scale(loss_of(scaled, step)).backward()
        scaler.step(optimizers[1])
        scaler.update()
    assert_same(plain, scaled)


def test_a_step_that_a_grad_scaler_skips_has_no_pull() -> None:
    net, before = model(), model()
    optimizer, scaler = BackSlash(torch.optim.SGD(net.parameters(), lr=0.1)), torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(net, 0)).backward()
    net[0].weight.grad[0, 0] = math.inf
    scaler.step(optimizer)
    assert_same(net, before)
    assert optimizer.term.step == 0


def test_shards_are_refused() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.device_mesh = None  # as a DTensor has it
    with pytest.raises(TypeError, match="params: got a DTensor, accepted: whole tensors"):
        BackSlash(torch.optim.SGD([weight], lr=0.1))


def test_a_group_that_is_added_is_pulled_too() -> None:
    first, second = nn.Parameter(torch.linspace(1, 2, 40)), nn.Parameter(torch.linspace(1, 2, 30))
    optimizer = BackSlash(torch.optim.SGD([first], lr=0.0), strength=1.0)
    optimizer.add_param_group({"params": [second], "lr": 0.0})
    assert optimizer.term.count == 70
    before = second.detach().clone()
    optimizer.step()
    assert (second.abs() < before.abs()).all()


def test_what_is_reported_live_is_close_to_what_is_counted() -> None:
    weight = nn.Parameter(torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 0.04)
    optimizer = BackSlash(torch.optim.SGD([weight], lr=0.0), strength=1.0)
    optimizer.step()
    live, counted = optimizer.live(), optimizer.measured_rate()
    assert live["shape"] == optimizer.shape
    assert live["bits"] == pytest.approx(counted.entropy, abs=0.02)
    assert live["strength"] == 1.0
    assert counted.exp_golomb[0] == pytest.approx(7.35, abs=0.05)


def test_pruned_weights_stay_zero_under_the_pull_and_the_optimizer() -> None:
    net = model()
    masks = prune_(net, 0.6)
    optimizer = BackSlash(torch.optim.AdamW(net.parameters(), lr=1e-2), strength=3.0)
    handle = masks.hold(optimizer)
    train(net, optimizer, range(3))
    assert all((net.get_parameter(name)[~kept] == 0).all() for name, kept in masks.kept.items())
    handle.remove()
    train(net, optimizer, range(3, 4))
    assert (net[0].weight[~masks.kept["0.weight"]] != 0).any()


def test_parameters_that_are_not_finite_are_noticed() -> None:
    weight = nn.Parameter(torch.tensor([1.0, math.nan]))
    with pytest.raises(FloatingPointError, match="backslash: the parameters have NaN"):
        BackSlash(torch.optim.SGD([weight], lr=0.1), strength=1.0).step()


def test_parameters_of_zeros_alone_stay() -> None:
    weight = nn.Parameter(torch.zeros(5))
    optimizer = BackSlash(torch.optim.SGD([weight], lr=0.1), strength=1.0)
    optimizer.step()
    assert not weight.any()
    assert optimizer.live()["bits"] == 0.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strength": -1.0}, r"strength: got -1\.0, accepted: finite numbers >= 0"),
        ({"mode": "inloss"}, "mode: got 'inloss'.*did you mean 'in_loss'"),
        ({"scope": "alll"}, "scope: got 'alll'.*did you mean 'all'"),
        ({"every": 0}, "every: got 0, accepted: integers of at least 1"),
        ({"eps": math.nan}, "eps: got nan"),
        ({"params": []}, "params: got 0, none of them trained"),
        ({"params": [nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]}, "torch.bfloat16 with mode 'decoupled'"),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict[str, Any], text: str) -> None:
    inner = torch.optim.SGD(model().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=text):
        BackSlash(inner, **options)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="optimizer: got Sequential"):
        BackSlash(model())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="strength: got 'strong'"):
        BackSlash(torch.optim.SGD(model().parameters()), strength="strong")  # type: ignore[arg-type]
