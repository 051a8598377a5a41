"""Memory that nobody wrote shows, and so does memory that is handed out twice."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.poison import Guard, WrongResult, checked_call, poison_freed, poisoned_memory

X = torch.arange(6.0).reshape(2, 3)


def call(function, held=(X,), shape=(2, 3), dtypes=(torch.float32,)):
    return checked_call(function, list(held), shape, dtypes, Guard())


def test_empty_tensors_are_filled_inside_only() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with poisoned_memory():
        assert torch.empty(5).isnan().all()
        assert X.new_empty(3).isnan().all()
        assert torch.empty(2, dtype=torch.bfloat16).isnan().all()
        assert (torch.empty(2, dtype=torch.int32) == 2**31 - 1).all()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_settings_come_back_after_an_error() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(KeyError), poisoned_memory():
            raise KeyError
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_operators_without_a_deterministic_form_work_on() -> None:
    with poisoned_memory():
        torch.ones(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_freed_memory_is_poisoned() -> None:
    poison_freed(1 << 12, "cpu")  # what the allocator does with it is its own affair


def test_a_right_result_passes() -> None:
    assert torch.equal(call(lambda: X + 1), X + 1)


def test_an_operand_that_was_written_is_named_and_restored() -> None:
    x = X.clone()
    with pytest.raises(WrongResult, match="overwrote an operand"):
        call(lambda: x.mul_(2) + 1, held=(x,))
    assert torch.equal(x, X)


def test_nan_in_an_operand_is_no_change() -> None:
    x = torch.full((2, 3), float("nan"))
    assert call(lambda: X + 1, held=(x, torch.tensor(1.0))).shape == (2, 3)


def test_memory_in_use_is_no_result() -> None:
    kept = torch.empty(2, 3)
    for function in (lambda: kept.copy_(X), lambda: kept[:], lambda: X.view(2, 3)):
        with pytest.raises(WrongResult, match="returned memory that is in use already"):
            call(function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: None, "returned NoneType, expected a tensor"),
        (lambda: X.t().contiguous(), r"returned torch.float32 \[3, 2\] on cpu, expected torch.float32 \[2, 3\]"),
        (lambda: X.double(), r"returned torch.float64 \[2, 3\]"),
    ],
)
def test_other_things_are_no_results(function, message: str) -> None:
    with pytest.raises(WrongResult, match=message):
        call(function)
