import pytest
import torch
from torch import Tensor

from narrowgauge.methods.multilevel import Axis, coalesce_tensor, decoalesce_tensor

MATRIX = (Axis.COPIED, Axis.SPLIT)


def gaussian(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_outputs_are_averaged_and_inputs_summed() -> None:
    big = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    assert torch.equal(coalesce_tensor(big, MATRIX), torch.tensor([[(1 + 3 + 5 + 7) / 2, (2 + 4 + 6 + 8) / 2]]))


def test_outputs_are_copied_and_inputs_halved() -> None:
    small = torch.tensor([[2.0, 6.0]])
    assert torch.equal(decoalesce_tensor(small, MATRIX), torch.tensor([[1.0, 3.0, 1.0, 3.0]] * 2))
    assert torch.equal(decoalesce_tensor(torch.tensor([3.0]), [Axis.COPIED]), torch.tensor([3.0, 3.0]))


@pytest.mark.parametrize("axes", [(a, b) for a in Axis for b in Axis])
def test_back_is_exact(axes: tuple[Axis, Axis]) -> None:
    small = gaussian(6, 10)
    big = decoalesce_tensor(small, axes)
    assert big.shape == tuple(n if axis is Axis.KEPT else 2 * n for n, axis in zip(small.shape, axes, strict=True))
    assert torch.equal(coalesce_tensor(big, axes), small)


def test_a_layer_computes_its_activations_twice() -> None:
    small, x = gaussian(6, 10), gaussian(3, 10)
    once = x @ small.T
    twice = torch.cat((x, x), dim=1) @ decoalesce_tensor(small, MATRIX).T
    torch.testing.assert_close(twice, torch.cat((once, once), dim=1))


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match=r"big: expected an even size along axis 1 to pair, got shape \(4, 3\)"):
        coalesce_tensor(torch.zeros(4, 3), MATRIX)
    with pytest.raises(ValueError, match="axes: expected one for each of the 1 axes, got 2"):
        decoalesce_tensor(torch.zeros(4), MATRIX)
