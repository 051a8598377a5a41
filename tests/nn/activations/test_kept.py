"""Saved tensors as views of compressed memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from narrowgauge.kernels import quantize
from narrowgauge.nn.activations.kept import Codes, Shared, Whole, as_rows, as_view
from narrowgauge.nn.activations.versions import Version

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x,
    "transposed": lambda x: x.transpose(1, 2),
    "flat": lambda x: x.reshape(-1),
    "slice": lambda x: x[:, 1:3],
    "every other": lambda x: x[..., ::2],
    "repeated": lambda x: x[:, :1].expand(3, 5, 4, 32),
    "repeated new axis": lambda x: x.unsqueeze(2).expand(3, 4, 6, 4, 32),
    "empty": lambda x: x[:0],
    "one": lambda x: x[0, 0, 0, :1],
    "reversed axes": lambda x: x.permute(3, 2, 1, 0),
}


def values() -> Tensor:
    return torch.randn(3, 4, 4, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", VIEWS)
def test_views_come_back_with_their_shape_and_values(name: str) -> None:
    x = VIEWS[name](values())
    view = as_view(x)
    codes = Codes(as_rows(view.dense, "int8/1x32", own_rows=True), "int8/1x32", None)
    back = Shared(codes, view, Version(x)).unpack()
    assert back.shape == x.shape
    assert (back - x).abs().max() <= x.abs().max() / 250 if x.numel() else True
    if "repeated" in name:
        assert codes.parts[0].numel() < x.numel()


def test_views_of_one_memory_have_one_key_whatever_their_shape() -> None:
    x = values()
    keys = {as_view(t).key for t in (x, x.transpose(1, 2), x.view(-1), x.flatten(2), x.detach())}
    assert len(keys) == 1
    others = {as_view(t).key for t in (x[1:], x.view(torch.int32).view(torch.float32)[:1], x.clone(), x[..., ::2])}
    assert len(others) == 4
    assert not others & keys
    x.mul_(2)
    assert as_view(x).key not in keys


def test_rows_of_narrow_heads_are_joined_only_where_tokens_may_share_scales() -> None:
    dense = values()
    assert as_rows(dense, "int8/1x128", own_rows=False).shape == (12, 128)
    assert as_rows(dense, "int8/1x128", own_rows=True).shape == (48, 32)
    assert as_rows(dense, "e4m3fn", own_rows=False).shape == (48, 32)
    assert as_rows(dense[:0], "int8/1x128", own_rows=False).numel() == 0
    assert as_rows(torch.ones(()), "int8/1x128", own_rows=False).shape == (1, 1)


def test_measured_maximum_gives_the_same_codes() -> None:
    x = values().flatten(1)
    with_maximum, without = Codes(x, "e4m3fn", x.abs().max()), Codes(x, "e4m3fn", None)
    assert torch.equal(with_maximum.values(), without.values())
    assert torch.equal(without.values(), quantize(x, "e4m3fn").dequantize())


def test_whole_tensor_is_the_tensor_until_it_changes() -> None:
    x = values().requires_grad_() * 1
    kept = Whole(x)
    assert kept.unpack().data_ptr() == x.data_ptr()
    assert kept.alias.grad_fn is None
    x.detach().mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.unpack()
