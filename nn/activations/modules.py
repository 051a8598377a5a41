"""Drop-in modules that keep their inputs compressed for backward. The forward pass has the bits of the plain module.

`scheme`: how an input [..., K] is kept, a scheme in which each row has scales of its own ("int8/1x128", "e4m3fn/1x16",
"mxfp8"). Gradients are exact at the restored input. Where no gradient will be asked for, nothing is compressed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from narrowgauge.formats import Scheme
from narrowgauge.nn.activations import operations
from narrowgauge.nn.activations.function import apply
from narrowgauge.nn.activations.operations import Operation
from narrowgauge.nn.activations.parts import check_scheme

DEFAULT_SCHEME = "int8/1x128"


class KeepsCompressed(nn.Module):
    """What the modules have in common.

    measure: take max |y| with the forward pass (Group Scaling), for a per-tensor scale of the output where a hook saves
    that instead of computing it again.
    """

    scheme: str
    measure: bool = False

    def keep_under(self, scheme: str | Scheme) -> None:
        """Sets `scheme`. ValueError for schemes in which rows share a scale, with +sr, or of more than 8 bits."""
        self.scheme = check_scheme(scheme, own_rows=True)

    def _kept(self, operation: Operation, *tensors: Tensor | None) -> Tensor:
        return apply(operation, self.scheme, *tensors, measure=self.measure)

    def extra_repr(self) -> str:
        """What the plain module shows, and the scheme."""
        plain = super().extra_repr()
        return f"{plain}, scheme={self.scheme}" if plain else f"scheme={self.scheme}"


class RMSNorm(KeepsCompressed, nn.RMSNorm):
    """`nn.RMSNorm` that keeps its input under `scheme`."""

    def __init__(self, *args: Any, scheme: str | Scheme = DEFAULT_SCHEME, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep_under(scheme)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., *normalized_shape]."""
        return self._kept(operations.RMSNorm(tuple(self.normalized_shape), self.eps), x, self.weight)


class LayerNorm(KeepsCompressed, nn.LayerNorm):
    """`nn.LayerNorm` that keeps its input under `scheme`."""

    def __init__(self, *args: Any, scheme: str | Scheme = DEFAULT_SCHEME, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep_under(scheme)

    def forward(self, input: Tensor) -> Tensor:
        """input [..., *normalized_shape]."""
        operation = operations.LayerNorm(tuple(self.normalized_shape), self.eps)
        return self._kept(operation, input, self.weight, self.bias)


class GELU(KeepsCompressed, nn.GELU):
    """`nn.GELU` that keeps its input under `scheme`."""

    def __init__(self, approximate: str = "none", *, scheme: str | Scheme = DEFAULT_SCHEME) -> None:
        super().__init__(approximate)
        self.keep_under(scheme)

    def forward(self, input: Tensor) -> Tensor:
        """input of any shape."""
        return self._kept(operations.GELU(self.approximate), input)


class SiLU(KeepsCompressed, nn.SiLU):
    """`nn.SiLU` that keeps its input under `scheme`."""

    def __init__(self, *, scheme: str | Scheme = DEFAULT_SCHEME) -> None:
        super().__init__()
        self.keep_under(scheme)

    def forward(self, input: Tensor) -> Tensor:
        """input of any shape."""
        return self._kept(operations.SiLU(), input)


class SwiGLU(KeepsCompressed):
    """silu(gate)·up, keeping both under `scheme`; silu(gate) is computed again (arXiv 2002.05202)."""

    def __init__(self, *, scheme: str | Scheme = DEFAULT_SCHEME) -> None:
        super().__init__()
        self.keep_under(scheme)

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up: one shape and dtype; ValueError otherwise."""
        if gate.shape != up.shape or gate.dtype != up.dtype:
            raise ValueError(
                f"up: expected the shape and dtype of gate, {tuple(gate.shape)} {gate.dtype}, "
                f"got {tuple(up.shape)} {up.dtype}"
            )
        return self._kept(operations.SwiGLU(), gate, up)
