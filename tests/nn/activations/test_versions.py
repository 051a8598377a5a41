"""In-place changes are noticed without keeping the tensor's memory."""

from __future__ import annotations

import weakref

import pytest
import torch

from narrowgauge.nn.activations.versions import Version


def test_unchanged_tensor_passes() -> None:
    x = torch.randn(3, 4)
    version = Version(x)
    assert (x * 2)._version == x._version == 0
    version.check()  # would raise


@pytest.mark.parametrize("through", ["itself", "a view"])
def test_change_is_an_error_that_says_what_autograd_says(through: str) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    version = Version(x)
    (x if through == "itself" else x.view(-1)[2:]).mul_(2)
    with pytest.raises(
        RuntimeError, match=r"modified by an inplace operation: float64 \[3, 4\] is at version 1; expected version 0"
    ):
        version.check()


def test_changes_before_do_not_count_and_nothing_is_kept_alive() -> None:
    x = torch.randn(5)
    x.add_(1)
    version, gone = Version(x), weakref.ref(x)
    assert x._version == 1
    assert version._counter.untyped_storage().nbytes() == 0
    del x
    assert gone() is None
    version.check()
