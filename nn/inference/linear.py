"""`InferenceLinear`: a linear layer whose weight is frozen and kept as codes.

    weight only (W8A16, W4A16 …)   y = x · dequantize(W)ᵀ + b                      any scheme of at most 8 bits
    both (W8A8 …)                  y = (codes of x · scales) (codes of W · scales)ᵀ + b    the scaled GEMM; integers
                                   with other formats: in high precision, on the decoded values

With `rotate`, blocks of so many elements of x are rotated first (`narrowgauge.formats.hadamard`), as those of W were
before they were quantised (QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats import Scheme
from narrowgauge.formats.hadamard import check_block
from narrowgauge.formats.operand import AnyScheme, OperandScheme, draws_anew
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.inference.coded import How, coded_linear
from narrowgauge.nn.inference.parts import check_values
from narrowgauge.nn.inference.product import stored_linear
from narrowgauge.nn.inference.recipe_weight import recipe_weight
from narrowgauge.nn.inference.stored import StoredWeight, as_dtype, checked_scheme, checked_slot
from narrowgauge.nn.layer_input import as_rows
from narrowgauge.nn.restorable import Encoded
from narrowgauge.nn.stages.rotation import rotated, sign_vector
from narrowgauge.nn.transposed_linear import is_transposed_linear


class InferenceLinear(StoredWeight):
    """Input [..., in_features] in any floating dtype → [..., out_features] in that dtype (under autocast, its dtype).

    The weight is frozen: `codes`, `scale` … and `bias` are buffers; gradients flow to the input alone, past its
    quantisation (identity straight-through). weight, input: schemes; `input` may have the options of a recipe's slot.
    `from_parts`, `from_linear` and `from_quant_linear` fill a layer; a new one holds zeros, for `load_state_dict`:
    `InferenceLinear(**layer.quantization)` has the buffers of `layer`.

    zero_point: w = (decode(code) - zero_point) · scale. double_scale: scales are kept in 8 bits (see `double`).
    at_once: decode the whole weight for a product, not block by block: the bits of a product with `dequantize()`.
    transposed: `weight` and files show the weight as [in_features, out_features], as transformers' Conv1D has it.
    columns, gain, input_scale, accumulate, output: what a recipe does beside that, see `How`. Where the slot of the
    input has a rotation, the codes are those of the rotated weight.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weight: str = "int8/row",
        *,
        input: str | None = None,
        zero_point: bool = False,
        double_scale: bool = False,
        rotate: int = 0,
        bias: bool = True,
        dtype: torch.dtype | str = torch.float32,
        columns: int | None = None,
        gain: float = 1.0,
        input_scale: float | None = None,
        accumulate: str | None = None,
        output: str | None = None,
        at_once: bool = False,
        transposed: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        kept = as_dtype(dtype)
        super().__init__(
            out_features, in_features if columns is None else columns, weight, zero_point=zero_point,
            double_scale=double_scale, dtype=kept, device=device,
        )  # fmt: skip
        self.in_features, self.out_features, self.rotate, self.at_once = in_features, out_features, rotate, at_once
        self.transposed = transposed
        if rotate:
            check_block(rotate)
            if in_features % rotate:
                raise ValueError(f"rotate: blocks of {rotate} do not divide the {in_features} inputs")
        slot = None if input is None else checked_slot(input, "input")
        if slot is not None:
            _check_input(slot, zero_point)
        text = None if slot is None else str(slot)
        self.how = How(self.scheme, self.cols, gain, text, input_scale, accumulate, output)
        self.register_buffer("bias", torch.zeros(out_features, dtype=kept, device=device) if bias else None)

    @classmethod
    def from_parts(
        cls,
        codes: Tensor,
        scale: Tensor,
        scheme: str | Scheme,
        *,
        outer: Tensor | None = None,
        zero_point: Tensor | None = None,
        bias: Tensor | None = None,
        input_scheme: str | AnyScheme | None = None,
        rotate: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> InferenceLinear:
        """A layer of codes [N, K], one per element (uint8, int8 for signed integers), and their numbers.

        scale: `Scheme.scale_shape((N, K))`, float32 or the scale codes of a block format; outer: [] float32, of
        two-level formats; zero_point: float32, the shape of scale; bias: [N]. Everything is copied. dtype: of the
        decoded weight. TypeError and ValueError name what does not fit.
        """
        if codes.dim() != 2:
            raise ValueError(f"codes: expected [N, K], got shape {tuple(codes.shape)}")
        new = cls(
            codes.shape[1], codes.shape[0], str(checked_scheme(scheme, "scheme")), zero_point=zero_point is not None,
            rotate=rotate, input=None if input_scheme is None else str(checked_slot(input_scheme, "input_scheme")),
            bias=False, dtype=dtype, device="meta",
        )  # fmt: skip
        new.fill(codes, scale, outer, zero_point)
        new._take_bias(bias)
        return new

    @classmethod
    def from_linear(
        cls, linear: nn.Module, weight: str | Scheme = "int8/row", input: str | AnyScheme | None = None, *,
        double_scale: bool = False, rotate: int = 0,
    ) -> InferenceLinear:  # fmt: skip
        """An `nn.Linear` (QuantLinear, transformers' Conv1D) with its weight quantised under `weight`, its input (if
        given) under `input` in every call.

        rotate: rotates blocks of so many elements along K of the weight before, of the input in every call; so does a
        rotation in `input`, whose last block may be filled up.

        TypeError for other layers, one that holds codes already among them; ValueError for schemes that a frozen layer
        cannot have, and for a layer on the meta device.
        """
        given, transposed = _weight_of(linear)
        spec, slot = checked_scheme(weight, "weight"), None if input is None else checked_slot(input, "input")
        check_values(given)
        kept, features = given.detach(), given.shape[1]
        turn = slot.rotation if isinstance(slot, OperandScheme) else None
        if turn is not None:
            kept = rotated(kept, turn.size, sign_vector(turn, Draw(), kept.device))
        elif rotate:
            check_block(rotate)
            kept = rotated(kept, rotate, None)
        new = cls(
            features, given.shape[0], str(spec), input=None if slot is None else str(slot), rotate=rotate,
            columns=kept.shape[1] if turn else None, double_scale=double_scale, transposed=transposed, bias=False,
            dtype=given.dtype, device="meta",
        )  # fmt: skip
        new.quantized_from(kept)
        new._take_bias(linear.bias)  # type: ignore[arg-type]
        new.train(linear.training)
        return new

    @classmethod
    def from_quant_linear(cls, layer: nn.Module, weight: str | Scheme | None = None) -> InferenceLinear:
        """A QuantLinear or QuantTransposedLinear as its recipe's forward pass runs it, bit for bit; stateful scales
        stay as they are now. weight: another scheme in the place of the recipe's.

        ValueError for recipes whose forward pass draws at random, maps its input, reads a scale of it that no step has
        given yet, or leaves no codes of the weight.
        """
        given, transposed = _weight_of(layer)
        made = recipe_weight(layer, weight)
        how = made.how
        new = cls(
            given.shape[1], given.shape[0], how.scheme, input=how.input, columns=how.cols, gain=how.gain,
            input_scale=how.input_scale, accumulate=how.accumulate, output=how.output, at_once=True,
            transposed=transposed, bias=False, dtype=given.dtype, device="meta",
        )  # fmt: skip
        new.fill(made.codes, made.scale, made.outer, None)
        new._take_bias(layer.bias)  # type: ignore[arg-type]
        new.train(layer.training)
        return new

    def _take_bias(self, bias: Tensor | None) -> None:
        if bias is not None and (tuple(bias.shape) != (self.out_features,) or not bias.is_floating_point()):
            raise ValueError(f"bias: expected [{self.out_features}] floating, got {bias.dtype} {tuple(bias.shape)}")
        self.bias = None if bias is None else bias.detach().clone()

    def forward(self, input: Tensor) -> Tensor:
        """ValueError if the last axis is not `in_features`, TypeError for inputs that are not floating."""
        x = as_rows(input, self.in_features)
        if self.rotate:
            x = rotated(x, self.rotate, None).to(x.dtype)
        if self.how == How(self.scheme, self.cols) and not self.at_once:
            y = stored_linear(x, self.parts, self.bias, self.scheme, self.cols)
        else:
            y = coded_linear(x, self.parts, self.bias, self.how)
        return y.view(*input.shape[:-1], self.out_features)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight [N, K] in `dtype` (default: `self.dtype`), in the basis of a rotation."""
        values = super().dequantize(dtype)
        return values if self.how.gain == 1.0 else values * (1.0 / self.how.gain)

    @property
    def weight(self) -> Tensor:
        """The decoded weight in the basis of a rotation, [N, K], [K, N] of a transposed layer: a new tensor at every
        access, for code that looks at the dtype, device or values of a linear layer's weight."""
        return self.dequantize().t() if self.transposed else self.dequantize()

    @property
    def is_rotated(self) -> bool:
        """Whether the codes are those of a weight in another basis, filled up or turned by a Hadamard matrix."""
        return bool(self.rotate) or self.how.turn is not None

    def _meaning(self) -> dict[str, Any]:
        block = self.rotate if self.how.turn is None else self.how.turn.size
        return {**super()._meaning(), "gain": self.how.gain, "rotation": block}

    @property
    def encoded(self) -> dict[str, Encoded]:
        """The weight, for files."""
        rotation, signs = self.how.rotation
        shape = (self.out_features, self.in_features)
        held = replace(
            super().encoded["weight"], shape=shape[::-1] if self.transposed else shape, transposed=self.transposed,
            gain=self.how.gain, rotation=rotation or self.rotate, signs=signs,
        )  # fmt: skip
        return {"weight": held}

    @property
    def quantization(self) -> dict[str, Any]:
        """What the layer is, in numbers, strings and booleans: the arguments of `InferenceLinear` for its like."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            **self._described(),
            "columns": self.cols,
            "gain": self.how.gain,
            "input": self.how.input,
            "input_scale": self.how.input_scale,
            "accumulate": self.how.accumulate,
            "output": self.how.output,
            "rotate": self.rotate,
            "at_once": self.at_once,
            "transposed": self.transposed,
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        """in_features, out_features, bias and the schemes."""
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        text += f", weight={self.scheme}, input={self.how.input}"
        text += ", zero_point" if self.zero_point is not None else ""
        text += ", double_scale" if self.second is not None else ""
        return text + (f", rotate={self.rotate}" if self.rotate else "")


def _weight_of(layer: nn.Module) -> tuple[Tensor, bool]:
    """(the weight [N, K] of a linear layer, whether it keeps it as [K, N]). TypeError for other layers."""
    given: Any = layer
    transposed = is_transposed_linear(layer)
    if not transposed and not isinstance(layer, nn.Linear):
        more = ", which holds codes already" if isinstance(layer, StoredWeight) else ""
        raise TypeError(
            f"linear: expected an nn.Linear, QuantLinear or transformers' Conv1D, got {type(layer).__name__}{more}"
        )
    return (given.weight.t() if transposed else given.weight), transposed


def _check_input(input: AnyScheme, zero_point: bool) -> None:
    """ValueError unless the slot of the inputs can stand beside a frozen weight."""
    if zero_point:
        raise ValueError(f"zero_point: goes with a weight-only layer, got input={input} as well")
    if draws_anew(input):
        raise ValueError(f"input: got {input}, accepted: what rounds to nearest and draws nothing")
