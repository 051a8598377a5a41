"""How a checked optimizer codec looks, how a name becomes one, and how many bytes its state has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from narrowgauge.numerics._arrays import is_tensor

Float32Array = NDArray[np.float32]


@runtime_checkable
class StateCodec(Protocol):
    """Stores a first and a second moment, float32 arrays of one shape.

    Optional attributes: `group`, elements of the flattened tensor that share scales; `bytes_per_parameter`, which is
    then checked; `stochastic`, whether seeds matter (found out by two of them where it is absent); `unbiased`, names
    of the moments ("m", "v") whose rounding is stochastic where one is not (default: both); `resolution`, the share of
    a group's largest m / √v below which m's sign is not kept (default 0; subtractive dither has one).
    """

    def store(self, m: Float32Array, v: Float32Array, seed: int) -> Any:
        """The state. v is never negative."""

    def load(self, state: Any) -> tuple[Any, Any]:
        """m and v as arrays or tensors of the shape that was stored."""


@runtime_checkable
class WeightCodec(Protocol):
    """Stores a parameter, a float32 array. The optional attributes of `StateCodec` go for it as well."""

    def store_weight(self, w: Float32Array, seed: int) -> Any:
        """The state."""

    def load_weight(self, state: Any) -> Any:
        """The parameter as array or tensor of the shape that was stored."""


def resolve_codec(codec: object) -> object:
    """An object with `store` and `load`, or `store_weight` and `load_weight`, as it is; anything else is a `state`
    option of `narrowgauge.optim`: a name, a scheme or a pair of them.

    ValueError where narrowgauge.optim is not imported or does not know the name.
    """
    if isinstance(codec, StateCodec | WeightCodec):
        return codec
    if "narrowgauge.optim" not in sys.modules:
        raise ValueError(
            f"codec: got {codec!r}, but narrowgauge.optim, which knows names, is not imported; import it first, or "
            "pass an object with store and load, or store_weight and load_weight"
        )
    # By name, because optim lies above this layer.
    return import_module("narrowgauge.optim.codec_check").named_codec(codec)


def state_bytes(state: Any) -> int | None:
    """Bytes of all arrays and tensors of a state; None where something in it has no known size."""
    if isinstance(state, Mapping):
        return state_bytes(list(state.values()))
    if isinstance(state, tuple | list):
        sizes = [state_bytes(part) for part in state]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    if is_tensor(state) or isinstance(state, np.ndarray | np.generic):
        return int(state.nbytes)
    if state is None or isinstance(state, bool | int | float | str):
        return 0  # shapes and names are not what grows with the parameters
    size = getattr(state, "nbytes", None)
    return None if size is None else int(size)
