import copy

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.nn import QuantLinear, convert
from narrowgauge.nn.adapters import LoRALinear, add_lora, lora_parameters
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.train import Llama, LlamaConfig, Trainer
from narrowgauge.train.lora import LoRA, merged_lora

TINY = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
IDS = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(0))


def adapted(*, recipe: str | None = None, base: str | None = None) -> nn.Module:
    """A model whose adapters do something."""
    model: nn.Module = Llama(TINY, seed=0)
    if recipe is not None:
        model = convert(model, recipe)
    add_lora(model, rank=2, alpha=4.0, base=base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.normal_(0, 0.2, generator=generator)
    return model.eval()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("recipe", "base"), [(None, None), ("fp8_row", None), (None, "int8/row")])
def test_merged_weights_come_and_go(recipe: str | None, base: str | None) -> None:
    model = adapted(recipe=recipe, base=base)
    before, logits = snapshot(model), model(IDS)
    kept = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with merged_lora(model) as inside:
        assert inside is model
        assert not any(isinstance(module, LoRALinear) for module in model.modules())
        assert any(isinstance(module, QuantLinear) for module in model.modules()) is (recipe is not None)
        merged = model(IDS)
    # Quantising W + Δ is another rounding than quantising W.
    torch.testing.assert_close(merged, logits, rtol=0, atol=1e-5 if recipe is None else 0.1)
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == kept
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)
    torch.testing.assert_close(model(IDS), logits, rtol=0, atol=0)


def test_what_is_done_to_merged_weights_is_lost_even_after_an_error() -> None:
    model = adapted()
    before = snapshot(model)

    def spoil() -> None:
        with merged_lora(model):
            nn.init.zeros_(model.get_parameter("layers.0.mlp.up_proj.weight"))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        spoil()
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)


def test_hooks_and_shared_places_come_back() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.append(model[1])
    add_lora(model, rank=1)
    calls: list[str] = []
    model[1].register_forward_hook(lambda module, _inputs, _output: calls.append(type(module).__name__))
    adapter = model[1]
    with merged_lora(model):
        assert model[1] is model[2]
        model(torch.ones(1, 4))
    model(torch.ones(1, 4))
    assert model[1] is model[2] is adapter
    assert calls == ["Linear", "Linear", "LoRALinear", "LoRALinear"]
    assert not adapter.base.bias.requires_grad


def test_a_merge_that_fails_halfway_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 4), InferenceLinear(4, 4, rotate=4))
    add_lora(model, rank=1)
    adapters, weight = list(model), model[0].base.weight
    model[1].register_forward_hook(lambda _module, _inputs, output: output)
    with pytest.raises(ValueError, match="rotated"), merged_lora(model):
        pass
    assert list(model) == adapters
    assert len(model[1]._forward_hooks) == 1
    assert model[0].base.weight is weight
    assert not weight.requires_grad


def test_a_model_without_adapters_is_refused() -> None:
    with pytest.raises(ValueError, match="no LoRALinear"), merged_lora(nn.Sequential(nn.Linear(2, 2))):
        pass


@pytest.mark.parametrize("recipe", [None, "fp8_row"])
def test_a_run_trains_the_adapters_alone(make_stream, recipe: str | None) -> None:
    model: nn.Module = Llama(TINY, seed=0)
    if recipe is not None:
        convert(model, recipe)
    before = snapshot(model)
    method = LoRA(rank=2, alpha=8.0, target=("q_proj", "up_proj"))
    trainer = Trainer(
        model, make_stream(), lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1), methods=[method]
    )
    assert trainer.name_map["layers.0.mlp.up_proj.weight"] == "layers.0.mlp.up_proj.base.weight"
    assert len(trainer.parameters) == 4
    trainer.fit(3)
    state = trainer.model.state_dict()
    for name, tensor in before.items():
        torch.testing.assert_close(state[trainer.name_map.get(name, name)], tensor, rtol=0, atol=0)
    assert all(parameter.abs().max() > 0 for parameter in lora_parameters(trainer.model))


def test_adapters_begin_as_a_function_of_the_seed() -> None:
    def first_values(seed: int) -> Tensor:
        model, _ = LoRA(rank=2, seed=seed).surgery(Llama(TINY, seed=0))
        return lora_parameters(model)[0].detach()

    state = torch.get_rng_state()
    torch.testing.assert_close(first_values(1), first_values(1), rtol=0, atol=0)
    assert not torch.equal(first_values(1), first_values(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_later_phase_keeps_the_adapters() -> None:
    model = adapted()
    before = snapshot(copy.deepcopy(model))
    assert LoRA(rank=4).surgery(model) == (model, None)
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)
