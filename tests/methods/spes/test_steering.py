import pytest
import torch
from torch import nn

from narrowgauge.methods.spes import Ownership, SteeredRouterLoss

MODEL = nn.Identity()


def test_the_factor_of_the_own_experts_rises_to_1() -> None:
    loss = SteeredRouterLoss(ownership=Ownership(4, 2), node=1, ramp=10)
    for step, factor in ((0, 0.7), (5, 0.85)):
        loss.begin_step(MODEL, step)
        emphasis = loss.emphasis()
        assert emphasis is not None
        torch.testing.assert_close(emphasis, torch.tensor([1.0, 1.0, factor, factor]))
    loss.begin_step(MODEL, 10)
    assert loss.emphasis() is None


def test_a_node_that_owns_everything_is_not_steered() -> None:
    assert SteeredRouterLoss(ownership=Ownership(4, 1), ramp=10).emphasis() is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"start": 0.0}, r"start: expected a number in \(0, 1\], got 0\.0"),
        ({"ramp": -1}, "ramp: expected a number of steps"),
        ({"node": 2}, "node: expected 0 … 1, got 2"),
        ({"balance": -1.0}, "balance: expected"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SteeredRouterLoss(ownership=Ownership(4, 2), **settings)  # type: ignore[arg-type]
