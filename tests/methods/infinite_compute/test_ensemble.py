import pytest
import torch
from torch import Tensor, nn

from narrowgauge.methods.infinite_compute import Ensemble
from narrowgauge.train import Llama, LlamaConfig, cross_entropy
from narrowgauge.train.generate import generate

SMALL = LlamaConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
IDS = torch.randint(0, 256, (3, 9), generator=torch.Generator().manual_seed(1))
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}


def members(count: int, spread: float = 20.0) -> list[nn.Module]:
    """Models with logits of some size, so that they disagree."""
    models = [Llama(SMALL, seed=seed) for seed in range(count)]
    with torch.no_grad():
        for model in models:
            model.lm_head.weight.mul_(spread)
    return list(models)


def test_its_logits_are_the_mean() -> None:
    models = members(3)
    expected = torch.stack([model(IDS) for model in models]).mean(0)
    torch.testing.assert_close(Ensemble(models)(IDS), expected)


def test_one_member_is_itself() -> None:
    (model,) = members(1)
    assert torch.equal(Ensemble([model])(IDS), model(IDS))


def test_the_order_of_the_members_does_not_matter_to_the_bit() -> None:
    a, b, c = members(3)
    assert torch.equal(Ensemble([a, b, c])(IDS), Ensemble([c, a, b])(IDS))


def loss_of_mean_probability(models: list[nn.Module]) -> Tensor:
    """Cross-entropy of the mean of the members' probabilities."""
    probabilities = torch.stack([model(BATCH["input_ids"]).softmax(-1) for model in models]).mean(0)
    return -probabilities.gather(-1, BATCH["labels"][..., None]).log().mean()


@pytest.mark.parametrize("spread", [1.0, 20.0, 300.0])
def test_neither_mean_is_worse_than_the_members_are_on_average(spread: float) -> None:
    models = members(4, spread)
    average = sum(cross_entropy(model, BATCH).item() for model in models) / len(models)
    assert cross_entropy(Ensemble(models), BATCH).item() <= average + 1e-6
    assert loss_of_mean_probability(models).item() <= average + 1e-6


def test_it_writes_the_same_with_a_cache_as_without_one() -> None:
    ensemble = Ensemble(members(3))
    prompts = [[1], [5, 6, 7], [9, 9]]
    texts = [
        generate(
            ensemble, prompts, max_new_tokens=8, temperature=1.0, eos=None,
            generator=torch.Generator().manual_seed(0), use_cache=use_cache,
        )
        for use_cache in (True, False)
    ]  # fmt: skip
    assert texts[0] == texts[1]
    assert texts[0] != [generate(ensemble.members[0], [prompt], max_new_tokens=8, eos=None)[0] for prompt in prompts]


def test_no_members_or_unequal_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="members: expected at least one model, got none"):
        Ensemble([])
    other = Llama(LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16))
    with pytest.raises(ValueError, match="members: member 1 has another config"):
        Ensemble([*members(1), other])
