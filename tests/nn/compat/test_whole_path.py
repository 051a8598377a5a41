"""A Llama of transformers end to end: training in FP8, QAT, adapters, files, and a process that knows nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import narrowgauge as ng
from narrowgauge.nn.adapters import add_lora, lora_parameters, merge_lora
from narrowgauge.nn.files import export, load, load_tensors
from narrowgauge.nn.inference import StoredWeight
from narrowgauge.nn.qat import freeze_qat, prepare_qat, qat
from other_process import run_program

pytest.importorskip("transformers")

from small_transformers import MODELS, build

LAYERS = ("Linear", "Conv1D", "Conv2d", "Embedding")
READER = """
    import sys
    import numpy as np
    import torch
    from narrowgauge.nn.adapters import merge_lora
    from narrowgauge.nn.files import load
    from small_transformers import MODELS, build

    torch.set_num_threads(int(sys.argv[2]))
    logits = {}
    with torch.no_grad():
        for name in ("masters", "codes", "frozen", "adapted"):
            model, batch = build("llama")
            load(model, f"{sys.argv[1]}/{name}.safetensors")
            logits[name] = model(**batch).logits.numpy()
        logits["merged"] = merge_lora(model)(**batch).logits.numpy()
    np.savez(f"{sys.argv[1]}/logits.npz", **logits)
"""


def train(model: nn.Module, batch: dict[str, Tensor], parameters: list[nn.Parameter] | None = None) -> None:
    optimizer = ng.optim.AdamW(model.parameters() if parameters is None else parameters, lr=3e-3)
    losses = []
    for _ in range(3):
        loss = model.train()(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_training_qat_and_adapters_through_files(tmp_path: Path) -> None:
    expected: dict[str, np.ndarray] = {}

    def saved(name: str, model: nn.Module, weights: str | None = "recipe") -> Path:
        path = tmp_path / f"{name}.safetensors"
        export(model.eval(), path, weights=weights)
        with torch.no_grad():
            expected[name] = model(**batch).logits.numpy()
        return path

    model, batch = build("llama")
    train(ng.convert(model, "fp8_row"), batch)
    masters = saved("masters", model, None)
    codes = saved("codes", model)
    np.testing.assert_array_equal(expected["masters"], expected["codes"])
    assert codes.stat().st_size < masters.stat().st_size

    model = ng.revert(load(build("llama")[0], masters))
    prepare_qat(model, qat("llm_qat", bits=8))
    train(model, batch)
    saved("frozen", freeze_qat(model))

    model = ng.revert(load(build("llama")[0], masters))
    add_lora(model, 4, base="nf4")
    train(model, batch, lora_parameters(model))
    saved("adapted", model)
    with torch.no_grad():
        expected["merged"] = merge_lora(model)(**batch).logits.numpy()

    run_program(READER, tmp_path, torch.get_num_threads())
    with np.load(tmp_path / "logits.npz") as found:
        assert found.files == list(expected)
        for name, logits in expected.items():
            np.testing.assert_array_equal(found[name], logits, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_a_model_is_kept_as_codes(name: str, tmp_path: Path) -> None:
    model, batch = build(name)
    ng.convert(model, "mxfp8", skip=(), layers=("linear", "conv", "embedding"))
    export(model, tmp_path / "a")
    left = [layer for layer, module in build(name)[0].named_modules() if type(module).__name__ in LAYERS]
    again = load(build(name)[0], tmp_path / "a")
    assert len(left) > 8
    assert all(isinstance(again.get_submodule(layer), StoredWeight) for layer in left)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    found = load_tensors(tmp_path / "a")
    for layer, parameter in build(name)[0].named_parameters():
        assert found[layer].shape == parameter.shape
