"""The integer cross entropy's gradient against the true one."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.nn.niti import IntTensor, loss_gradient


@pytest.mark.parametrize("exponent", [-12, -7, -6, -5, -4, -3, 0, 5])
def test_gradient_points_where_the_true_one_does(exponent: int) -> None:
    torch.manual_seed(0)
    logits = IntTensor(torch.randint(-127, 128, (200, 10), dtype=torch.int8), exponent)
    labels = torch.randint(0, 10, (200,))
    gradient = loss_gradient(logits, labels)
    right = torch.softmax(logits.float(), 1) - torch.nn.functional.one_hot(labels, 10)
    assert gradient.exponent == 0
    wrong = right.norm(dim=1) > 0.1
    assert float(torch.cosine_similarity(gradient.codes.float(), right, dim=1)[wrong].min()) > 0.9
    assert float(torch.cosine_similarity(gradient.codes.float().flatten(), right.flatten(), dim=0)) > 0.99


def test_rows_sum_to_nearly_nothing_and_labels_are_negative() -> None:
    torch.manual_seed(0)
    logits = IntTensor(torch.randint(-20, 20, (100, 10), dtype=torch.int8), -4)
    labels = torch.randint(0, 10, (100,))
    codes = loss_gradient(logits, labels).codes.int()
    assert (codes.gather(1, labels[:, None]) <= 0).all()
    assert int(codes.sum(1).abs().max()) <= 10


def test_a_certain_right_answer_has_no_gradient() -> None:
    logits = IntTensor(torch.tensor([[127, -127, -127]], dtype=torch.int8), 0)
    assert not loss_gradient(logits, torch.tensor([0])).codes.any()
    assert loss_gradient(logits, torch.tensor([1])).codes.tolist() == [[127, -127, 0]]


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="labels: expected"):
        loss_gradient(IntTensor(torch.zeros(2, 3, dtype=torch.int8), 0), torch.zeros(3, dtype=torch.int64))
