import pytest
import torch

from narrowgauge.methods.adept import block_importance, insert_copies, rate_scales, unit_importance
from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, cross_entropy
from narrowgauge.train.tradeoff import mean_loss

SMALL = LlamaConfig(dim=16, num_layers=3, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
BATCHES = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2).validation()


def rough(seed: int = 0) -> Llama:
    """A model whose blocks matter: weights ten times as large as initial ones."""
    model = Llama(SMALL, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model


def test_a_blocks_importance_is_what_its_removal_costs() -> None:
    model = rough()
    importance = block_importance(model, BATCHES)
    for index, value in enumerate(importance):
        shorter = rough()
        del shorter.layers[index]
        assert value == pytest.approx(mean_loss(shorter, BATCHES) - mean_loss(model, BATCHES), abs=1e-6)
    assert len(set(importance)) == 3


def test_measuring_blocks_leaves_no_hook() -> None:
    model = rough()
    block_importance(model, BATCHES)
    assert not any(block._forward_hooks for block in model.layers)


def test_a_block_that_adds_nothing_has_no_importance() -> None:
    model = rough()
    insert_copies(model, [1])
    assert block_importance(model, BATCHES)[2] == 0


def test_a_units_importance_is_the_mean_product_of_weight_and_gradient() -> None:
    model = rough()
    model.embed_tokens.requires_grad_(False)
    found = unit_importance(model, BATCHES)
    expected = dict.fromkeys(found, 0.0)
    for batch in BATCHES:
        model.zero_grad()
        cross_entropy(model, batch).backward()
        for name in expected:
            parameter = model.get_parameter(name)
            assert parameter.grad is not None
            expected[name] += float((parameter * parameter.grad).detach().abs().mean()) / len(BATCHES)
    assert "embed_tokens.weight" not in found
    assert found == pytest.approx(expected)


def test_measuring_units_leaves_gradients_and_modes_alone() -> None:
    model = rough()
    model.layers[0].eval()
    cross_entropy(model, BATCHES[0]).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        unit_importance(model, BATCHES)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, before[name])
    assert model.training
    assert not model.layers[0].training


def test_every_unit_of_a_fresh_copy_has_importance_zero() -> None:
    model = rough()
    insert_copies(model, [0])
    assert set(unit_importance(model, BATCHES).values()) == {0.0}


def test_the_most_important_unit_stands_still_and_the_least_important_learns_twice_as_fast() -> None:
    assert rate_scales({"a": 1.0, "b": 3.0, "c": 1.5}) == {"a": 2.0, "b": 0.0, "c": 1.5}


def test_equally_important_units_learn_at_the_schedules_rate() -> None:
    assert rate_scales({"a": 0.0, "b": 0.0}) == {"a": 1.0, "b": 1.0}


def test_ranges_by_kind_keep_norms_and_matrices_apart() -> None:
    importance = {"norm": 100.0, "small norm": 50.0, "matrix": 1.0, "large matrix": 2.0}
    kinds = {"norm": 1, "small norm": 1, "matrix": 2, "large matrix": 2}
    assert rate_scales(importance, kinds) == {"norm": 0.0, "small norm": 2.0, "matrix": 2.0, "large matrix": 0.0}
