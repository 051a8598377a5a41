from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.methods.pcp import PCP, Phases, Prompt, Text, build_corpus, predict
from narrowgauge.train import METHODS, Context, tiny_llama
from narrowgauge.train.tokens import VOCAB_SIZE

SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 32}
PROMPT = Prompt(words=(b"A", b"B"), before=b" #", after=b"", max_length=12)
PHASES = Phases(PROMPT, tuning_steps=3, pretraining_steps=4, batch_size=4)
FEW, LABELS = [Text(b"abab"), Text(b"cdcd")], [0, 1]
MANY = [Text(b"abba"), Text(b"ccdd"), Text(b"aabb"), Text(b"dcdc")]


class Recorder:
    """``Context.fit`` that remembers what it was asked to do."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.starts: list[list[torch.Tensor]] = []
        self.rows: list[set[bytes]] = []

    def __call__(self, model: nn.Module, source: Any, steps: int, *, lr: float) -> None:
        self.steps.append(steps)
        self.starts.append(weights(model))
        self.rows.append({row.data for row in source.train})
        Context(seed=0).fit(model, source, steps, lr=lr)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def base() -> nn.Module:
    return tiny_llama(0, vocab_size=VOCAB_SIZE, **SIZES)


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["pcp"] is PCP


def test_the_phases_come_in_order_and_start_from_the_right_weights() -> None:
    model, fit = base(), Recorder()
    untouched = weights(model)
    outcome = PHASES.run(model, FEW, LABELS, MANY, fit)
    assert fit.steps == [3, 4, 3]
    assert same(fit.starts[0], untouched)
    assert same(fit.starts[1], untouched)  # not the labeller
    assert same(fit.starts[2], weights(outcome.pretrained))
    assert same(weights(model), untouched)
    assert not same(weights(outcome.classifier), weights(outcome.pretrained))


def test_all_phases_have_rows_of_the_same_template() -> None:
    fit = Recorder()
    outcome = PHASES.run(base(), FEW, LABELS, MANY, fit)
    assert fit.rows[0] == fit.rows[2] == {b"abab #A", b"cdcd #B"}
    expected = {PROMPT.fill(text, int(label)) for text, label in zip(MANY, outcome.pseudo_labels, strict=True)}
    assert fit.rows[1] == expected


def test_the_pseudo_labels_are_the_tuned_models_and_no_true_label_enters() -> None:
    outcome = PHASES.run(base(), FEW, LABELS, MANY, Context(seed=0).fit)
    labeller = PHASES.tune(base(), FEW, LABELS, Context(seed=0).fit)
    assert torch.equal(outcome.pseudo_labels, predict(labeller, PROMPT, MANY)[0])


def test_with_true_labels_equal_to_the_pseudo_labels_the_two_ways_coincide() -> None:
    outcome = PHASES.run(base(), FEW, LABELS, MANY, Context(seed=0).fit)
    gold = outcome.pseudo_labels.tolist()
    pretrained = PHASES.pretrain(base(), build_corpus(MANY, gold, PROMPT), Context(seed=0).fit)
    assert same(weights(PHASES.tune(pretrained, FEW, LABELS, Context(seed=0).fit)), weights(outcome.classifier))


@pytest.mark.parametrize("name", ["tuning_steps", "tuning_lr", "pretraining_steps", "pretraining_lr", "batch_size"])
def test_numbers_that_are_not_above_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a number above 0, got 0"):
        Phases(PROMPT, **{name: 0})


def test_the_experiment_gives_the_numbers_of_its_claims() -> None:
    experiment = PCP.experiment()
    values = experiment.run(Context(seed=0, scale=0.005))
    for claim in experiment.claims:
        assert isinstance(claim.control, str)
        assert 0 <= values[claim.treatment] <= 1
        assert 0 <= values[claim.control] <= 1
