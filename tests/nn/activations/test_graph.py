"""Origins of tensors: through views and casts to the operation, through any view to a leaf."""

from __future__ import annotations

import torch

from narrowgauge.nn.activations import RMSNorm
from narrowgauge.nn.activations.graph import kind, origin


def leaf() -> torch.Tensor:
    return torch.randn(4, 6, requires_grad=True)


def test_views_and_casts_are_seen_through() -> None:
    made = leaf().exp()
    for tensor, cast in (
        (made, False),
        (made.view(24).reshape(2, 12), False),
        (made.unsqueeze(0).flatten(), False),
        (made.to(torch.bfloat16).view(-1), True),
    ):
        source = origin(tensor)
        assert source.node is made.grad_fn
        assert (kind(source.node), source.cast, source.parameter) == ("Exp", cast, False)


def test_other_orders_of_the_elements_have_an_origin_of_their_own() -> None:
    made = leaf().exp()
    assert kind(origin(made.t()).node) == "T"
    assert kind(origin(made[1:]).node) == "Slice"
    assert not origin(made.t()).parameter


def test_values_of_a_leaf_are_recognised_through_casts_and_views() -> None:
    weight = leaf()
    for tensor in (weight.t(), weight.to(torch.bfloat16).t(), weight.view(-1)[3:], weight.split(2)[0].expand(3, 2, 6)):
        assert origin(tensor).parameter
    assert not origin((weight * 1).t()).parameter


def test_without_a_graph_there_is_no_node() -> None:
    assert origin(torch.ones(3)).node is None
    assert origin(leaf()).node is None


def test_change_in_place_is_an_origin_of_its_own() -> None:
    made = leaf().exp()
    view = made.view(-1)
    made.mul_(2)
    assert kind(origin(made).node) == "Mul"
    assert kind(origin(view).node) != "Exp"


def test_compressed_operations_have_their_operations_name() -> None:
    assert kind(RMSNorm(6)(leaf()).grad_fn) == "RMSNorm"
