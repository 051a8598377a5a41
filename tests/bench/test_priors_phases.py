"""A run of the pipeline of priors: its stages, and that it can be stopped anywhere and ends at the same bits."""

from __future__ import annotations

import json

import pytest
import torch

from narrowgauge.bench.priors_phases import CURVE_STEPS, MODEL, initial_weights, reshape_, train_run
from narrowgauge.bench.priors_run import STATES, PipelineResult, PipelineRun, PipelineSettings
from narrowgauge.bench.priors_stages import Form, read_form
from narrowgauge.bench.training_run import RESULT, initial_model, read_result
from narrowgauge.train import ByteCorpus

SMALL = {
    "dim": 32,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "ffn_dim": 32,
    "seq_len": 16,
    "batch_size": 2,
    "steps": 5,
    "fine_tune_steps": 4,
    "recover_steps": 3,
    "evaluations": 2,
    "curve_batches": 1,
    "final_windows": 16,
    "lr": 1e-2,
}
SETTINGS = PipelineSettings(**SMALL)
RATE = PipelineRun(1, 1.0, 2e-3)
TIMES = ("seconds", "tokens_per_s", "train_tokens_per_s")


class Stopper:
    """A logger that interrupts the run after so many steps in all."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.seen: list[int] = []

    def start(self, first: int, last: int) -> None:
        """Nothing."""

    def log(self, step: int, metrics) -> None:
        self.seen.append(step)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Nothing to close."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> ByteCorpus:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(400)))
    return ByteCorpus(path)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return train_run(RATE, SETTINGS, corpus, folder, save_every=2), folder


def facts(result: PipelineResult) -> list[dict]:
    """Stages without what a clock says."""
    return [{name: value for name, value in vars(stage).items() if name not in TIMES} for stage in result.stages]


def test_every_stage_is_recorded_in_order(whole) -> None:
    result, _ = whole
    files = [(stage.state, stage.form) for stage in result.stages]
    assert list(dict.fromkeys(state for state, _ in files)) == list(STATES)
    assert [form for state, form in files if state == "fine-tuned"] == [str(form) for form in Form]
    assert len(set(files)) == len(files)
    assert result.stage("fine-tuned", Form.FP16).nbytes < result.stage("fine-tuned", Form.FP32).nbytes
    assert result.stage("deepshape", "rf8").state == "deepshape"
    with pytest.raises(ValueError, match="has no 'trained' as 'rf8'"):
        result.stage("trained", Form.RF8)


def test_trained_stages_have_the_speed_of_training(whole) -> None:
    result, _ = whole
    trained = [s.name for s in result.stages if s.train_tokens_per_s is not None]
    assert trained == ["trained, fp32", "fine-tuned, fp32", "recovered, fp32", "deepshape, fp32"]


def test_the_file_of_the_last_stage_stays_and_nothing_else(whole) -> None:
    result, folder = whole
    last = result.stages[-1]
    assert (last.state, last.form) == ("deepshape", "rf8")
    assert (folder / MODEL).stat().st_size == last.nbytes
    assert read_form("rf8", folder / MODEL).keys() == dict(initial_model(0, SETTINGS).named_parameters()).keys()
    assert not list(folder.rglob("checkpoint*"))


def test_what_rounds_to_zero_is_zero_from_fine_tuning_on(whole) -> None:
    result, _ = whole
    trained, tuned = result.stage("trained", "fp32").zeros, result.stage("fine-tuned", "fp32").zeros
    assert 0 < trained <= tuned
    assert result.stage("deepshape", "fp32").zeros >= trained


def test_the_rate_saves_bits(whole, corpus, tmp_path) -> None:
    plain = train_run(PipelineRun(1, 1.0), SETTINGS, corpus, tmp_path, save_every=2)
    assert whole[0].stage("init", "fp32").entropy == plain.stage("init", "fp32").entropy
    assert whole[0].stage("trained", "fp32").entropy < plain.stage("trained", "fp32").entropy


def test_rounding_curves_begin_at_the_finest_step(whole) -> None:
    result, _ = whole
    for name in ("recovered", "deepshape"):
        points = result.curves[name]
        assert tuple(point[0] for point in points) == CURVE_STEPS
        assert [p[2] for p in points] == sorted((p[2] for p in points), reverse=True)
        assert points[0][1] == pytest.approx(result.stage(name, "fp32").loss, rel=1e-3)


def test_shape_two_leaves_the_weights_and_others_keep_the_standard_deviation() -> None:
    before = initial_model(1, SETTINGS)
    drawn = [initial_weights(PipelineRun(1, shape), SETTINGS) for shape in (2.0, 0.5)]
    again = initial_weights(PipelineRun(1, 0.5, 1e-3), SETTINGS)
    assert all(torch.equal(p, q) for p, q in zip(drawn[1].parameters(), again.parameters(), strict=True))
    for (name, p), gaussian, heavy in zip(
        before.named_parameters(), drawn[0].parameters(), drawn[1].parameters(), strict=True
    ):
        assert torch.equal(p, gaussian), name
        if p.ndim < 2:
            assert torch.equal(p, heavy), name
        else:
            drawn_anew = heavy.detach()
            assert float(drawn_anew.std()) == pytest.approx(float(p.detach().std()), rel=0.3)
            # rms over mean magnitude: 1.25 of a Gaussian, 1.83 of shape 0.5.
            assert float(drawn_anew.square().mean().sqrt() / drawn_anew.abs().mean()) > 1.6


def test_the_result_is_read_back_as_it_was(whole) -> None:
    result, folder = whole
    assert read_result(RATE, folder, PipelineResult) == result
    assert json.loads((folder / RESULT).read_text())["stages"][0]["state"] == "init"


@pytest.mark.parametrize("at", [5, 7, 14])
def test_a_run_that_was_stopped_ends_at_the_same_bits(at: int, whole, corpus, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_run(RATE, SETTINGS, corpus, tmp_path, save_every=2, logger=Stopper(at))
    again = train_run(RATE, SETTINGS, corpus, tmp_path, save_every=2)
    assert facts(again) == facts(whole[0])
    assert (again.final_loss, again.val_curve, again.curves) == (
        whole[0].final_loss,
        whole[0].val_curve,
        whole[0].curves,
    )
    assert (tmp_path / MODEL).read_bytes() == (whole[1] / MODEL).read_bytes()


def test_the_logger_counts_the_steps_of_all_phases(corpus, tmp_path) -> None:
    seen = Stopper(0)
    train_run(RATE, SETTINGS, corpus, tmp_path, save_every=100, logger=seen)
    assert seen.seen == list(range(1, SETTINGS.total_steps + 1))


def test_training_that_diverges_is_a_result_without_stages(corpus, tmp_path, monkeypatch) -> None:
    from narrowgauge.train import trainer

    def broken(parameters, mean_loss, clip_norm, step):
        raise FloatingPointError(f"loss is nan at step {step}")

    monkeypatch.setattr(trainer, "finite_loss_and_norm", broken)
    result = train_run(RATE, SETTINGS, corpus, tmp_path, save_every=2)
    assert (result.final_loss, result.stages, result.curves) == (None, (), {})
    assert result.note == "loss is nan at step 0"
    assert read_result(RATE, tmp_path, PipelineResult) == result
    assert not (tmp_path / MODEL).exists()


def test_reshaping_leaves_zeros_and_matrices_keep_their_standard_deviation() -> None:
    model = initial_model(0, SETTINGS)
    with torch.no_grad():
        model.lm_head.weight[:200] = 0.0
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    reshape_(model, 0.5)
    for name, p in model.named_parameters():
        old, new = before[name].double(), p.detach().double()
        assert torch.equal(old == 0, new == 0), name
        if p.ndim < 2:
            assert torch.equal(old, new), name
            continue
        assert float(new.square().sum()) == pytest.approx(float(old.square().sum()), rel=0.1), name
        # Heavier tails: rms over mean magnitude grows.
        kept = old != 0
        ratio = [float(x[kept].square().mean().sqrt() / x[kept].abs().mean()) for x in (old, new)]
        assert ratio[1] > 1.1 * ratio[0], name
