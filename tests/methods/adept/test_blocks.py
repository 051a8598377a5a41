from dataclasses import replace

import pytest
import torch
from torch import nn

from narrowgauge.methods.adept import block_list, insert_copies, neutral_copy
from narrowgauge.nn import QuantLinear, convert
from narrowgauge.train import Llama, LlamaConfig, cross_entropy

SMALL = LlamaConfig(dim=16, num_layers=3, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def ids() -> torch.Tensor:
    return torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(0))


def test_the_blocks_are_the_largest_list() -> None:
    model = Llama(SMALL, seed=0)
    model.extra = nn.ModuleList([nn.Linear(2, 2)])
    assert block_list(model)[0] == "layers"
    with pytest.raises(ValueError, match=r"model: expected one with an nn\.ModuleList"):
        block_list(nn.Linear(2, 2))


@pytest.mark.parametrize("chosen", [[0], [2], [0, 1, 2]])
@pytest.mark.parametrize("recipe", [None, "fp8_row"])
def test_logits_do_not_move(chosen: list[int], recipe: str | None) -> None:
    model = Llama(SMALL, seed=0)
    if recipe is not None:
        convert(model, recipe)
    before = model(ids())
    insert_copies(model, chosen)
    torch.testing.assert_close(model(ids()), before, rtol=0, atol=1e-6)
    assert len(model.layers) == 3 + len(chosen)
    assert model.config.num_layers == 3 + len(chosen)
    if recipe is not None:
        assert isinstance(model.layers[-1].mlp.up_proj, QuantLinear)


def test_copies_stand_behind_their_blocks_and_only_they_are_trained() -> None:
    model = Llama(SMALL, seed=0)
    originals = list(model.layers)
    insert_copies(model, [0, 2])
    assert [model.layers[i] for i in (0, 2, 3)] == originals
    trainable = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"1", "4"}
    assert all(name.startswith("layers.") for name, p in model.named_parameters() if p.requires_grad)


def test_copies_have_the_weights_of_their_blocks_but_for_the_outputs_and_share_no_storage() -> None:
    model = Llama(SMALL, seed=0)
    insert_copies(model, [1])
    block, twin = model.layers[1], model.layers[2]
    for (name, original), parameter in zip(block.named_parameters(), twin.parameters(), strict=True):
        if "o_proj" in name or "down_proj" in name:
            assert (parameter == 0).all()
        else:
            assert torch.equal(parameter, original)
    storages = {p.untyped_storage().data_ptr() for p in block.parameters()}
    assert not storages & {p.untyped_storage().data_ptr() for p in twin.parameters()}


def test_a_copy_can_learn() -> None:
    model = Llama(SMALL, seed=0)
    insert_copies(model, [1])
    cross_entropy(model, {"input_ids": ids(), "labels": ids()}).backward()
    gradient = model.layers[2].mlp.down_proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_the_map_tells_where_every_moved_parameter_is() -> None:
    model = Llama(SMALL, seed=0)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    renamed = insert_copies(model, [1])
    assert {new.split(".")[1] for new in renamed.values()} == {"3"}
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(after[renamed.get(name, name)], value)


def test_tied_embeddings_stay_frozen() -> None:
    model = Llama(replace(SMALL, tie_embeddings=True), seed=0)
    insert_copies(model, [0])
    assert not model.embed_tokens.weight.requires_grad
    assert model.lm_head.weight is model.embed_tokens.weight


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layers: expected blocks among 0 … 2, got 3"):
        insert_copies(Llama(SMALL, seed=0), [3])
    with pytest.raises(ValueError, match="outputs: Linear has no layer called 'down_proj'"):
        neutral_copy(nn.Linear(2, 2))
