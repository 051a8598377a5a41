from typing import Any

import pytest

from narrowgauge.train.position import Positioned


class Counter(Positioned):
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def identity(self) -> dict[str, Any]:
        return {"seed": self.seed}


def test_a_position_is_taken_up_by_a_stream_of_the_same_batches_alone() -> None:
    first = Counter(seed=1)
    first.position = 7
    again = Counter(seed=1)
    again.load_state_dict(first.state_dict())
    assert again.position == 7
    with pytest.raises(ValueError, match="seed=1"):
        Counter(seed=2).load_state_dict(first.state_dict())
