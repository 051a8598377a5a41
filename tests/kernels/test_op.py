"""On which GPU an op launches."""

from __future__ import annotations

from typing import NamedTuple

import torch

from narrowgauge.kernels.op import gpu_of_call


class OnGpu(torch.Tensor):
    """A tensor that says it is on the second GPU."""

    is_cuda = True
    device = NamedTuple("Device", [("type", str), ("index", int)])("cuda", 1)  # type: ignore[assignment]


def test_the_gpu_is_that_of_the_first_tensor_on_one() -> None:
    far = torch.zeros(2).as_subclass(OnGpu)
    assert gpu_of_call((far, 3)) == 1
    assert gpu_of_call((3, None, torch.zeros(2), far)) == 1
    assert gpu_of_call(("text", [], [torch.zeros(2), far])) == 1


def test_elsewhere_there_is_none() -> None:
    assert gpu_of_call((torch.zeros(2), [torch.zeros(3)], None, "text", 4.0)) is None
