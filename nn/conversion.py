"""A layer changes its class and stays the same object: `become` makes it a quantised one, `become_plain` a plain one.

Because the object stays, so do its hooks with their handles, its parameters and buffers, its places in the model, and
whatever else was set on it. What the quantised class needs beside that (recipe, seed, counters) is added, and taken
away again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from narrowgauge.nn.layer_kinds import quantised_kind

RECORD = "_conversion"
REASON = "_left_alone"
_REGISTRIES = ("_parameters", "_buffers", "_modules")


class Conversion(NamedTuple):
    """What `become` did: the class before, and the names it added to the layer and to its registries."""

    plain: type[nn.Module]
    attributes: tuple[str, ...]
    registered: tuple[tuple[str, ...], ...]


def become(layer: nn.Module, quantised: nn.Module) -> None:
    """`layer` becomes what `quantised` is, a layer made from it that shares its parameters."""
    record = _difference(type(layer), quantised, layer)
    for name in record.attributes:
        layer.__dict__[name] = quantised.__dict__[name]
    for registry, names in zip(_REGISTRIES, record.registered, strict=True):
        for name in names:
            layer.__dict__[registry][name] = quantised.__dict__[registry][name]
    layer._non_persistent_buffers_set |= quantised._non_persistent_buffers_set
    layer.__dict__.pop(REASON, None)
    layer.__dict__[RECORD] = record
    layer.__class__ = type(quantised)


def become_plain(layer: nn.Module) -> None:
    """Undoes `become`. A quantised layer that was built as one becomes the class it stands in for."""
    record = layer.__dict__.pop(RECORD, None) or _built(layer)
    for name in record.attributes:
        layer.__dict__.pop(name, None)
    for registry, names in zip(_REGISTRIES, record.registered, strict=True):
        for name in names:
            layer.__dict__[registry].pop(name, None)
            layer._non_persistent_buffers_set.discard(name)
    layer.__class__ = record.plain


def _difference(plain: type[nn.Module], more: nn.Module, less: nn.Module) -> Conversion:
    registered = tuple(
        tuple(name for name in more.__dict__[registry] if name not in less.__dict__[registry])
        for registry in _REGISTRIES
    )
    return Conversion(plain, tuple(name for name in more.__dict__ if name not in less.__dict__), registered)


def _built(layer: nn.Module) -> Conversion:
    """Of a layer that never was a plain one."""
    kind = quantised_kind(layer)
    assert kind is not None  # callers ask for quantised layers alone
    plain = kind.plain_class()
    with torch.device("meta"):
        return _difference(plain, layer, plain(*kind.smallest))
