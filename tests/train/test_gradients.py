import math

import pytest
import torch
from torch import Tensor

from narrowgauge.train.gradients import accumulate, finite_loss_and_norm
from narrowgauge.train.method import Metrics


def labels(*rows: int) -> dict[str, Tensor]:
    return {"labels": torch.tensor(rows)}


def test_accumulated_gradients_are_those_of_one_large_batch_whatever_the_parts() -> None:
    weight = torch.tensor(2.0, requires_grad=True)

    def loss_of(batch: dict[str, Tensor]) -> tuple[Tensor, Metrics]:
        known = batch["labels"][batch["labels"] != -100]
        loss = (weight * known).mean()
        return loss, {"double": 2 * loss.item()}

    # Tokens 1, 2, 3, 9 and one part without any: the mean is 3.75.
    loss, metrics = accumulate(loss_of, [labels(1, 2, 3), labels(9, -100, -100), labels(-100)])
    assert loss.item() == pytest.approx(7.5)
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(3.75)
    assert metrics == {"double": pytest.approx(15.0)}


def test_a_step_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="data: no token of the step has a label"):
        accumulate(lambda batch: (torch.zeros(()), {}), [labels(-100, -100)])


@pytest.mark.parametrize(("clip_norm", "expected"), [(None, [3.0, 4.0]), (10.0, [3.0, 4.0]), (1.0, [0.6, 0.8])])
def test_gradients_are_clipped_to_the_global_norm(clip_norm: float | None, expected: list[float]) -> None:
    parameters = [torch.zeros((), requires_grad=True) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor(3.0), torch.tensor(4.0)
    loss, norm = finite_loss_and_norm(parameters, torch.tensor(0.5), clip_norm, step=0)
    assert (loss, norm) == (0.5, 5.0)
    clipped = [p.grad.item() for p in parameters if p.grad is not None]
    assert clipped == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "gradient", "message"),
    [
        (math.nan, 1.0, "loss is nan at step 7"),
        (math.inf, 1.0, "loss is inf at step 7"),
        (1.0, math.nan, "gradient norm is nan at step 7"),
    ],
)
def test_numbers_that_are_not_finite_name_the_step(loss: float, gradient: float, message: str) -> None:
    parameter = torch.zeros((), requires_grad=True)
    parameter.grad = torch.tensor(gradient)
    with pytest.raises(FloatingPointError, match=message):
        finite_loss_and_norm([parameter], torch.tensor(loss), 1.0, step=7)
