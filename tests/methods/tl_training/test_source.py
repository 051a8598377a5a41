import pytest
import torch

from narrowgauge.methods.tl_training import IGNORED, PRE, Sample, batch_of_samples, tool_source
from narrowgauge.train.tasks import TOOLS, conversations

SHORT = Sample(b"A:", b"f()\n")
LONG = Sample(b"U:go\nA:", b"list_max(a=[3])\n")


def test_labels_and_classes_are_on_the_replies_alone() -> None:
    batch = batch_of_samples([SHORT, LONG], 40, tools=TOOLS)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["token_class"].shape == (2, 22)
    assert torch.equal(batch["labels"] == -100, batch["token_class"] == IGNORED)
    for row, sample in enumerate((SHORT, LONG)):
        labels = batch["labels"][row]
        assert bytes(labels[labels != -100].tolist()) == sample.reply
    key = batch["labels"][1][batch["token_class"][1] == PRE]
    assert bytes(key.tolist()) == b"lma"  # list_ against list_l and list_s, list_m against list_mi and list_me


def test_failed_calls_are_in_the_training_samples_only_where_asked_for() -> None:
    turns = conversations(40, seed=0)
    sizes = {"tools": TOOLS, "batch_size": 4, "seq_len": 112, "seed": 0}
    masked, all_calls = tool_source(turns, turns, **sizes), tool_source(turns, turns, mask_errors=False, **sizes)
    assert len(masked.train) == 40
    assert len(all_calls.train) > 40
    assert all_calls.validation_examples == masked.validation_examples


def test_a_sample_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="seq_len: 10 takes rows of"):
        batch_of_samples([LONG], 10, tools=TOOLS)
