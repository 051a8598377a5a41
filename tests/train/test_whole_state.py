"""States without shards; those in shards are in tests/support/trainer_processes.py."""

import torch

from narrowgauge.train.whole_state import is_sharded, placed, whole


def test_states_without_shards_are_what_they_were() -> None:
    tensor = torch.arange(3)
    state = {"a": [tensor, (1, None)], 2: "x"}
    assert not is_sharded(tensor)
    assert whole(state)["a"][0] is tensor
    assert whole(state) == whole(state, kept=False) == placed(state, state) == state
    assert isinstance(whole(state)["a"][1], tuple)


def test_what_the_other_does_not_have_stays() -> None:
    saved = {"a": torch.zeros(2), "b": [torch.ones(1)]}
    assert placed(saved, {"b": []}) == saved
    assert placed(saved, {}) == saved
