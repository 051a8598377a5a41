import pytest
import torch
from torch import nn

from narrowgauge.methods.migu import Capture
from narrowgauge.nn import add_lora
from narrowgauge.train import Llama, LlamaConfig

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16, vocab_size=260)


def ids(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 8), generator=torch.Generator().manual_seed(seed))


def totals(capture: Capture) -> dict[str, torch.Tensor]:
    return {name: rows.total for rows in capture.rows for name in rows.parameters if rows.total is not None}


def test_it_sums_the_magnitudes_of_the_outputs() -> None:
    layer = nn.Linear(3, 4)
    capture = Capture(layer, (), None)
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    layer(x)
    found = totals(capture)
    assert found.keys() == {"weight", "bias"}
    torch.testing.assert_close(found["weight"], layer(x).abs().sum((0, 1)).detach())


def test_sums_over_micro_batches_are_those_of_one_large_batch() -> None:
    model = Llama(SMALL, seed=0)
    capture = Capture(model, ("lm_head",), None)
    whole = ids(6)
    model(whole)
    large = totals(capture)
    capture.clear()
    assert not totals(capture)
    model(whole[:2])
    model(whole[2:])
    assert large.keys() == totals(capture).keys()
    assert len(large) == 7
    for name, total in totals(capture).items():
        torch.testing.assert_close(total, large[name])


def test_padding_does_not_count() -> None:
    model = Llama(SMALL, seed=0)
    capture = Capture(model, (), 256)
    short = ids(2)
    model(short)
    expected = totals(capture)
    capture.clear()
    model(torch.cat([short, torch.full((2, 3), 256)], dim=1))  # causal: what comes later changes nothing before it
    for name, total in totals(capture).items():
        torch.testing.assert_close(total, expected[name])


def test_evaluation_and_undifferentiated_passes_do_not_count() -> None:
    model = Llama(SMALL, seed=0)
    capture = Capture(model, (), None)
    model.eval()
    model(ids(2))
    model.train()
    with torch.no_grad():
        model(ids(2))
    assert not totals(capture)


def test_frozen_and_skipped_layers_are_not_watched() -> None:
    model = Llama(SMALL, seed=0)
    model.layers[0].mlp.requires_grad_(False)
    capture = Capture(model, ("lm_head", "o_proj"), None)
    names = {name.split(".")[-2] for rows in capture.rows for name in rows.parameters}
    assert names == {"q_proj", "k_proj", "v_proj"}
    with pytest.raises(ValueError, match="model: expected a linear layer with trainable weights"):
        Capture(model.requires_grad_(False), (), None)


def test_removing_leaves_no_hook() -> None:
    model = Llama(SMALL, seed=0)
    capture = Capture(model, (), None)
    assert any(module._forward_hooks for module in model.modules())
    capture.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layers_that_share_a_weight_share_its_sum() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    capture = Capture(model, (), None)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    model(x)
    assert len(capture.rows) == 1
    expected = model[0](x).abs().sum(0) + model(x).abs().sum(0)
    capture.clear()
    model(x)
    torch.testing.assert_close(capture.rows[0].total, expected.detach())


def test_an_adapters_matrices_are_ranked_by_their_own_and_by_the_whole_output() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    add_lora(model, rank=2)
    adapter = model[0]
    nn.init.ones_(adapter.lora_B)
    capture = Capture(model, (), None)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    y = model(x)
    found = totals(capture)
    assert found.keys() == {"0.lora_A", "0.lora_B"}
    torch.testing.assert_close(found["0.lora_A"], (x @ adapter.lora_A.T).abs().sum(0).detach())
    torch.testing.assert_close(found["0.lora_B"], y.abs().sum(0).detach())
