"""What autograd's graph says about a tensor that is about to be saved: which operation made it, from what."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from narrowgauge.nn.activations.operations import Operation

# Nodes that change neither the values' order nor, but for rounding, the values.
SAME_ORDER = ("View", "UnsafeView", "ReshapeAlias", "ToCopy", "Alias", "Squeeze", "Unsqueeze", "Clone")
# Nodes that give other views of their input.
OTHER_VIEWS = ("T", "Transpose", "Permute", "Expand", "Slice", "Select", "Split", "SplitWithSizes", "Unbind", "Mt")
VIEWS = SAME_ORDER + OTHER_VIEWS


class Origin(NamedTuple):
    """node: the operation that made the values, seen through views and casts (None: no graph). cast: whether a cast lay
    between. parameter: whether the values are those of a leaf, such as a cast or transposed weight."""

    node: Any
    cast: bool
    parameter: bool


def kind(node: Any) -> str:
    """The name of a node without its ending: "Softmax" of SoftmaxBackward0; of a compressed one the operation's."""
    if isinstance(getattr(node, "op", None), Operation):
        return type(node.op).__name__
    return str(node.name()).split("Backward")[0].rsplit("::", 1)[-1]


def origin(tensor: Tensor) -> Origin:
    """Where the values of `tensor` come from; elements lie in the same (logical) order as in the output of `node`."""
    node, cast = tensor.grad_fn, False
    while node is not None and kind(node) in SAME_ORDER:
        cast |= kind(node) == "ToCopy"
        node = node.next_functions[0][0]
    return Origin(node, cast, _reaches_leaf(node))


def _reaches_leaf(node: Any) -> bool:
    while node is not None and kind(node) in VIEWS:
        node = node.next_functions[0][0]
    return node is not None and hasattr(node, "variable")
