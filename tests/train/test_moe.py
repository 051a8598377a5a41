import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from narrowgauge.nn import QuantLinear, convert
from narrowgauge.train import cross_entropy
from narrowgauge.train.moe import MoE, MoEConfig, MoELlama, Routing, expert_tensors, moe_layers, set_expert_tensors

SMALL = MoEConfig(
    dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=8, max_seq_len=16, num_experts=4, experts_per_token=2
)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def layer(config: MoEConfig = SMALL) -> MoE:
    found: MoE = next(moe_layers(MoELlama(config, seed=0)))[1]
    for parameter in found.parameters():  # larger than initial weights, so that outputs and choices differ
        parameter.data.mul_(20)
    return found


def ids() -> torch.Tensor:
    return torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(0))


def test_each_token_gets_its_experts_outputs_weighted() -> None:
    moe, x = layer(), random(2, 3, 16)
    y = moe(x)
    for b in range(2):
        for t in range(3):
            logits = moe.router.weight @ x[b, t]
            best = logits.argsort(descending=True)[:2]
            probabilities = logits.softmax(0)[best]
            expected = sum(
                p / probabilities.sum() * moe.experts[int(e)](x[b, t]) for p, e in zip(probabilities, best, strict=True)
            )
            torch.testing.assert_close(y[b, t], expected)


def test_a_single_expert_is_a_plain_mlp() -> None:
    moe, x = layer(replace(SMALL, num_experts=1, experts_per_token=1)), random(2, 3, 16)
    assert torch.equal(moe(x), moe.experts[0](x))


def test_the_weights_are_a_function_of_the_seed() -> None:
    first, same, other = MoELlama(SMALL, seed=1), MoELlama(SMALL, seed=1), MoELlama(SMALL, seed=2)
    for p, q, r in zip(first.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.ndim < 2 or not torch.equal(p, r)
    down = first.layers[0].mlp.experts[0].down_proj.weight
    assert down.std().item() == pytest.approx(0.02 / math.sqrt(4), rel=0.3)
    assert first.layers[0].mlp.router.weight.std().item() == pytest.approx(0.02, rel=0.3)


def test_gradients_reach_the_router_and_the_chosen_experts_alone() -> None:
    model = MoELlama(replace(SMALL, num_experts=16, experts_per_token=1), seed=0)
    cross_entropy(model, {"input_ids": ids()[:1, :4], "labels": ids()[:1, :4]}).backward()
    for _, moe in moe_layers(model):
        assert moe.routing is not None
        used = set(moe.routing.chosen.flatten().tolist())
        for index, expert in enumerate(moe.experts):
            assert (expert.up_proj.weight.grad is not None) == (index in used)


def test_a_frozen_expert_gets_no_gradient_but_its_tokens_pass_one_on() -> None:
    model = MoELlama(SMALL, seed=0)
    for _, moe in moe_layers(model):
        moe.experts.requires_grad_(False)
    cross_entropy(model, {"input_ids": ids(), "labels": ids()}).backward()
    assert all(p.grad is None for name, p in model.named_parameters() if ".experts." in name)
    assert model.layers[0].mlp.router.weight.grad.abs().sum() > 0


def test_recipes_convert_the_experts_and_leave_the_router() -> None:
    model = convert(MoELlama(SMALL, seed=0), "fp8_row")
    moe = next(moe_layers(model))[1]
    assert isinstance(moe.experts[0].up_proj, QuantLinear)
    assert not any(isinstance(module, QuantLinear) for module in moe.router.modules())
    cross_entropy(model, {"input_ids": ids(), "labels": ids()}).backward()


def test_the_router_computes_in_float32_under_autocast() -> None:
    moe = layer()
    with torch.autocast("cpu", torch.bfloat16):
        y = moe(random(2, 3, 16))
    assert moe.routing is not None
    assert moe.routing.logits.dtype == torch.float32
    assert y.shape == (2, 3, 16)


def test_expert_tensors_have_a_leading_expert_axis_and_go_back() -> None:
    moe = layer()
    tensors = expert_tensors(moe)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "gate_proj.weight": (4, 8, 16),
        "up_proj.weight": (4, 8, 16),
        "down_proj.weight": (4, 16, 8),
    }
    assert torch.equal(tensors["up_proj.weight"][2], moe.experts[2].up_proj.weight)
    set_expert_tensors(moe, {name: tensor.flip(0) for name, tensor in tensors.items()})
    assert torch.equal(tensors["up_proj.weight"][2], moe.experts[1].up_proj.weight)


def routing(logits: torch.Tensor, count: int = 1) -> Routing:
    top = logits.topk(count, dim=-1)
    return Routing(logits, top.indices, top.values.softmax(-1))


def test_the_balance_loss_is_1_for_uniform_use_and_the_number_of_experts_for_one() -> None:
    assert routing(100 * torch.eye(4)).balance_loss().item() == pytest.approx(1)
    assert routing(
        100 * F.one_hot(torch.zeros(8, dtype=torch.int64), 4).float()
    ).balance_loss().item() == pytest.approx(4)


def test_the_losses_follow_their_formulas() -> None:
    logits = random(6, 4)
    found = routing(logits, 2)
    counts = torch.tensor([float((found.chosen == e).sum()) for e in range(4)])
    assert torch.equal(found.counts, counts)
    expected = 4 * sum(counts[e] / 12 * logits.softmax(1)[:, e].mean() for e in range(4))
    torch.testing.assert_close(found.balance_loss(), expected)
    emphasis = torch.tensor([0.5, 1.0, 1.0, 2.0])
    expected = 4 * sum(emphasis[e] * counts[e] / 12 * logits.softmax(1)[:, e].mean() for e in range(4))
    torch.testing.assert_close(found.balance_loss(emphasis), expected)
    torch.testing.assert_close(found.z_loss(), logits.exp().sum(1).log().square().mean())


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"num_experts": 0}, "num_experts: expected at least 1, got 0"),
        ({"experts_per_token": 5}, "experts_per_token: expected 1 … 4, got 5"),
        ({"dim": 15}, "dim: expected"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(SMALL, **sizes)  # type: ignore[arg-type]


def test_a_model_without_mixtures_is_refused() -> None:
    with pytest.raises(ValueError, match="model: expected one with mixtures of experts"):
        next(moe_layers(torch.nn.Linear(2, 2)))
