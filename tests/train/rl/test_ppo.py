import numpy as np
import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.rl.ppo import add_value_head, logits_and_values, ppo_loss, token_rewards, value_loss

TINY = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
MASK = torch.tensor([[False, True, True, True], [True, True, False, False], [False, False, False, False]])


def numbers(seed: int) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) * 0.3 - 1.0


def test_a_value_head_leaves_the_model_as_it_was() -> None:
    model = Llama(TINY, seed=0)
    ids = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(0))
    names, before = list(model.state_dict()), model(ids)
    assert add_value_head(model) is model
    logits, values = logits_and_values(model, ids)
    torch.testing.assert_close(logits, before, rtol=0, atol=0)
    torch.testing.assert_close(model(ids), before, rtol=0, atol=0)
    assert values.tolist() == [[0.0] * 8] * 2
    assert list(model.state_dict()) == [*names, "value_head.weight", "value_head.bias"]
    assert not model.norm._forward_hooks


def test_values_come_from_the_normalised_hidden_states_and_train_the_model() -> None:
    model = Llama(TINY, seed=0)
    add_value_head(model)
    ids = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.get_parameter("value_head.weight").copy_(torch.linspace(-1, 1, 16))
        model.get_parameter("value_head.bias").fill_(0.5)
    seen: list[Tensor] = []
    model.norm.register_forward_hook(lambda _m, _i, output: seen.append(output))
    _, values = logits_and_values(model, ids)
    torch.testing.assert_close(values, seen[0] @ torch.linspace(-1, 1, 16) + 0.5)
    values.sum().backward()
    assert model.layers[0].mlp.up_proj.weight.grad.abs().max() > 0
    assert model.lm_head.weight.grad is None


def test_only_a_llama_without_a_value_head_can_get_one() -> None:
    with pytest.raises(TypeError, match="model: expected a Llama"):
        add_value_head(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="has a value_head already"):
        add_value_head(add_value_head(Llama(TINY)))


def test_the_reward_comes_with_the_last_token_and_the_penalty_with_each() -> None:
    old, ref = numbers(0), numbers(1)
    rewards = torch.tensor([2.0, -1.0, 5.0])
    got = token_rewards(rewards, MASK, old, ref, kl_coef=0.5)
    expected = np.where(MASK.numpy(), -0.5 * (old - ref).numpy(), 0.0)
    expected[0, 3] += 2.0
    expected[1, 1] -= 1.0
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)
    assert token_rewards(rewards, MASK, old).sum().item() == 1.0
    with pytest.raises(ValueError, match="kl_coef: expected"):
        token_rewards(rewards, MASK, old, kl_coef=0.5)


def test_the_loss_is_the_formula() -> None:
    new, old, values, old_values, advantages, returns = (numbers(seed) for seed in range(6))
    loss, metrics = ppo_loss(
        new, old, values, old_values, advantages, returns, MASK, clip=0.1, value_clip=0.2, value_coef=0.7
    )
    wide = [x.double().numpy() for x in (new, old, values, old_values, advantages, returns)]
    new_, old_, values_, old_values_, advantages_, returns_ = wide
    ratio, mask = np.exp(new_ - old_), MASK.numpy()
    policy = -np.minimum(ratio * advantages_, np.clip(ratio, 0.9, 1.1) * advantages_)[mask].mean()
    near = old_values_ + np.clip(values_ - old_values_, -0.2, 0.2)
    value = 0.5 * np.maximum((values_ - returns_) ** 2, (near - returns_) ** 2)[mask].mean()
    assert metrics["policy_loss"] == pytest.approx(policy, rel=1e-5)
    assert metrics["value_loss"] == pytest.approx(value, rel=1e-5)
    assert loss.item() == pytest.approx(policy + 0.7 * value, rel=1e-5)


def test_a_value_that_is_right_and_has_not_moved_costs_nothing() -> None:
    values = numbers(0).requires_grad_()
    loss = value_loss(values, values.detach(), values.detach(), MASK, value_clip=0.2)
    loss.backward()
    assert values.grad is not None
    assert (loss.item(), values.grad.abs().max().item()) == (0.0, 0.0)
    with pytest.raises(ValueError, match="value_clip: expected"):
        value_loss(values, values, values, MASK, value_clip=0.0)


def test_the_gradient_is_that_of_finite_differences() -> None:
    new, values = numbers(0).double().requires_grad_(), numbers(2).double().requires_grad_()
    old, old_values, advantages, returns = (numbers(seed).double() for seed in (1, 3, 4, 5))
    assert torch.autograd.gradcheck(
        lambda x, v: ppo_loss(x, old, v, old_values, advantages, returns, MASK)[0], (new, values)
    )
