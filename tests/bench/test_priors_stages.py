"""Stages of the pipeline of priors: what a file holds comes back, and the record says what it takes."""

from __future__ import annotations

import math

import pytest
import torch

from narrowgauge.bench import priors_stages
from narrowgauge.bench.priors_stages import Form, expected, matrices, measure, read_form, write_form
from narrowgauge.priors import measure_rate
from narrowgauge.priors.coding import describe_compressed
from narrowgauge.train import Llama, LlamaConfig

CONFIG = LlamaConfig(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=48, max_seq_len=16)


@pytest.fixture
def model() -> Llama:
    made = Llama(CONFIG, seed=3)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(1.3)
        made.lm_head.weight[:4] = 0.0
    return made


def recorded(model, form: Form, path, **more):
    given = {"step_bits": 8, "tokens": 100, **more}
    return measure(model, "trained", form, path, lambda m: float(m.lm_head.weight.square().sum()), **given)


@pytest.mark.parametrize("form", Form)
def test_a_file_gives_back_what_its_form_says(model, form: Form, tmp_path) -> None:
    path = tmp_path / "model.ngz"
    write_form(model, form, path, 6)
    wanted, found = expected(model, form, 6), read_form(form, path)
    assert found.keys() == wanted.keys() == dict(model.named_parameters()).keys()
    for name, weights in wanted.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], weights), name


def test_forms_lose_what_their_formats_lose(model) -> None:
    w = model.lm_head.weight.detach()
    of = {form: expected(model, form, 8)["lm_head.weight"] for form in Form}
    assert torch.equal(of[Form.FP32], w)
    assert torch.equal(of[Form.FP16], w.half().float())
    assert (of[Form.STEP] * 256 == (of[Form.STEP] * 256).round()).all()
    assert (of[Form.STEP] - w).abs().max() <= 2.0**-9
    big = w.abs() > 2.0**-8
    assert ((of[Form.RF8] - w)[big] / w[big]).abs().max() < 0.109
    assert (of[Form.RF8][w.abs() < 0.374 * 2.0**-8] == 0).all()
    assert ((of[Form.E4M3] - w)[big] / w[big]).abs().max() < 0.0626


@pytest.mark.parametrize("form", Form)
def test_a_record_is_that_of_the_file_read_back(model, form: Form, tmp_path) -> None:
    path = tmp_path / "model.ngz"
    stage = recorded(model, form, path)
    weights = expected(model, form, 8)
    assert stage.nbytes == path.stat().st_size == describe_compressed(path).nbytes
    assert stage.parameters == model.num_parameters()
    assert stage.file_bits == 8 * path.stat().st_size / model.num_parameters()
    rate = measure_rate([w for w in weights.values() if w.ndim >= 2])
    assert (stage.entropy, stage.exp_golomb_0, stage.zeros) == (rate.entropy, rate.exp_golomb[0], rate.zeros)
    assert stage.exp_golomb == min(rate.exp_golomb.values()) == rate.exp_golomb[stage.order]
    assert stage.loss == float(weights["lm_head.weight"].square().sum())
    assert stage.name == f"trained, {form}"
    assert stage.seconds > 0
    assert stage.tokens_per_s > 0


def test_code_bits_are_those_of_the_coded_tensors(model, tmp_path) -> None:
    assert recorded(model, Form.FP16, tmp_path / "half").code_bits is None
    assert recorded(model, Form.E4M3, tmp_path / "codes").code_bits is None
    stage = recorded(model, Form.STEP, tmp_path / "step")
    rows = [row for row in describe_compressed(tmp_path / "step").rows if row.code is not None]
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in matrices(model))
    assert stage.code_bits == pytest.approx(
        math.fsum(r.code * r.parameters for r in rows) / sum(r.parameters for r in rows)
    )


def test_seconds_of_training_replace_those_of_the_file(model, tmp_path) -> None:
    stage = recorded(model, Form.FP32, tmp_path / "file", seconds=12.5, train_tokens_per_s=99.0)
    assert (stage.seconds, stage.train_tokens_per_s) == (12.5, 99.0)
    assert recorded(model, Form.FP32, tmp_path / "file").train_tokens_per_s is None


def test_the_model_is_left_as_it_was(model, tmp_path) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    recorded(model, Form.RF8, tmp_path / "file", step_bits=3)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_file_that_gives_back_something_else_is_refused(model, how: str, tmp_path, monkeypatch) -> None:
    def read(form, path):
        found = read_form(form, path)
        if how == "missing":
            found.pop("norm.weight")
        else:
            found["lm_head.weight"][5, 7] += 2.0**-8
        return found

    monkeypatch.setattr(priors_stages, "read_form", read)
    with pytest.raises(RuntimeError, match=r"trained, step: .* does not give back the weights"):
        recorded(model, Form.STEP, tmp_path / "file")
