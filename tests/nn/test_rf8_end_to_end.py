"""RF8 on a small Llama: training with the recipe, and inference from weights kept as RF8 codes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import narrowgauge as ng
from narrowgauge.nn.inference import InferenceLinear, quantize_for_inference
from narrowgauge.priors.rf8_cast import rf8_cast


@pytest.fixture(scope="module")
def text() -> ng.train.ByteCorpus:
    return ng.train.ByteCorpus(max_bytes=200_000)


def trained(recipe: str | None, text: ng.train.ByteCorpus, steps: int = 30) -> tuple[torch.nn.Module, list[float]]:
    torch.manual_seed(0)
    model = ng.train.Llama(ng.train.LlamaConfig.preset("tiny"))
    if recipe is not None:
        ng.convert(model, recipe)
    optimizer = ng.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        loss = ng.train.cross_entropy(model, text.batch(step, batch_size=4, seq_len=64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@pytest.fixture(scope="module")
def plain(text: ng.train.ByteCorpus) -> tuple[torch.nn.Module, list[float]]:
    model, losses = trained(None, text)
    return model.eval(), losses


def loss_of(model: torch.nn.Module, text: ng.train.ByteCorpus) -> float:
    with torch.no_grad():
        return ng.train.cross_entropy(model, text.validation(1, batch_size=8, seq_len=64)[0]).item()


def test_training_in_rf8_learns_as_in_float32(
    plain: tuple[torch.nn.Module, list[float]], text: ng.train.ByteCorpus
) -> None:
    model, losses = trained("rf8", text)
    assert isinstance(model.layers[0].mlp.up_proj, ng.QuantLinear)
    assert losses[-1] < 0.7 * losses[0]
    assert sum(losses[-5:]) == pytest.approx(sum(plain[1][-5:]), rel=0.03)
    kept = quantize_for_inference(copy.deepcopy(model).eval(), None)
    assert isinstance(kept.layers[0].mlp.up_proj, InferenceLinear)
    ids = text.validation(1, batch_size=2, seq_len=32)[0]["input_ids"]
    with torch.no_grad():
        assert torch.equal(kept(ids), model.eval()(ids))


@pytest.mark.parametrize("scheme", ["rf8/row", "rf8:static=1.0", "rf8_nearest/1x64", "rf8b14:static=1.0"])
def test_inference_from_codes_is_the_cast_model(
    scheme: str, plain: tuple[torch.nn.Module, list[float]], text: ng.train.ByteCorpus
) -> None:
    coded, cast = copy.deepcopy(plain[0]), copy.deepcopy(plain[0])
    quantize_for_inference(coded, scheme)
    held = {name for name, module in coded.named_modules() if isinstance(module, InferenceLinear)}
    rf8_cast(cast, scheme, filter_fn=lambda name, _: name.removesuffix(".weight") in held)
    layer = coded.layers[0].mlp.up_proj
    assert layer.codes.dtype == torch.uint8
    ids = text.validation(1, batch_size=2, seq_len=64)[0]["input_ids"]
    with torch.no_grad():
        logits, expected = coded(ids), cast(ids)
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    # No loss, says the paper; half a percent is what this asks for.
    assert loss_of(coded, text) == pytest.approx(loss_of(plain[0], text), rel=0.005)


def test_rf8_codes_are_saved_and_loaded(
    plain: tuple[torch.nn.Module, list[float]], text: ng.train.ByteCorpus, tmp_path: Path
) -> None:
    coded = quantize_for_inference(copy.deepcopy(plain[0]), "rf8/row")
    ng.export(coded, tmp_path / "model.safetensors")
    loaded = quantize_for_inference(copy.deepcopy(plain[0]), "rf8/row")
    with torch.no_grad():
        loaded.layers[0].mlp.up_proj.codes.zero_()
    ng.load(loaded, tmp_path / "model.safetensors")
    ids = text.validation(1, batch_size=2, seq_len=32)[0]["input_ids"]
    with torch.no_grad():
        assert torch.equal(loaded(ids), coded(ids))
