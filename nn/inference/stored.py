"""`StoredWeight`: the buffers of a frozen weight [rows, cols] that is kept as codes, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.formats.operand import AnyScheme, parse_operand
from narrowgauge.kernels.layout import layout_for, layout_of, scale_dtype
from narrowgauge.kernels.tensor import quantize_raw
from narrowgauge.nn.inference.double import double_encoded, second_count
from narrowgauge.nn.inference.parts import Parts, check_values, stored_codes, stored_dtype, stored_shape, whole
from narrowgauge.nn.restorable import Encoded

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NUMBERS = ("scale", "outer", "zero_point", "second", "mean")
"""Buffers that stay in their dtype, whatever the model is cast to."""


class StoredWeight(nn.Module):
    """Buffers: codes (packed where they have fewer than 8 bits: `narrowgauge.kernels.packing`), scale, outer (of
    two-level formats), zero_point, second and mean (of double-quantised scales); None where a weight has none.

    Casting the module (`.half()`, `.to(dtype)`) changes `dtype`, which is that of the decoded weight, and leaves the
    numbers that decode it alone.

    groups: so many equal blocks of rows are quantised each by itself. Their scales stand one after another; outer has
    a number for each where there are several.

    A state_dict says in its metadata what its codes mean; `load_state_dict` refuses those that mean something else
    here. One without metadata is taken as it is.
    """

    codes: Tensor
    scale: Tensor
    outer: Tensor | None
    zero_point: Tensor | None
    second: Tensor | None
    mean: Tensor | None

    def __init__(
        self, rows: int, cols: int, scheme: str, *, dtype: torch.dtype, device: torch.device | str | None,
        zero_point: bool = False, double_scale: bool = False, groups: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        spec = checked_scheme(scheme, "weight")
        if double_scale:
            check_double(spec)
        if dtype not in DTYPES:
            raise TypeError(f"dtype: got {dtype}, accepted: {', '.join(str(accepted) for accepted in DTYPES)}")
        self.rows, self.cols, self.scheme, self.dtype, self.groups = rows, cols, str(spec), dtype, groups
        shape = self._scale_shape(spec)

        def numbers(present: bool, *sizes: int, kind: torch.dtype = torch.float32) -> Tensor | None:
            return torch.zeros(sizes, dtype=kind, device=device) if present else None

        codes = torch.zeros(stored_shape(rows, cols, spec.element), dtype=stored_dtype(spec.element), device=device)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", numbers(True, *shape, kind=torch.uint8 if double_scale else scale_dtype(spec)))
        self.register_buffer("outer", numbers(spec.two_level, *self._outer_shape()))
        self.register_buffer("zero_point", numbers(zero_point, *shape))
        self.register_buffer("second", numbers(double_scale, second_count(shape[0] * shape[1])))
        self.register_buffer("mean", numbers(double_scale))

    @property
    def parts(self) -> Parts:
        """The buffers."""
        return Parts(self.codes, self.scale, self.outer, self.zero_point, self.second, self.mean)

    def group(self, index: int) -> Parts:
        """The buffers of one group of rows, views of them."""
        if self.groups == 1:
            return self.parts
        (down, _), rows = self.scale.shape, self.rows // self.groups
        tiles = slice(index * down // self.groups, (index + 1) * down // self.groups)
        outer = None if self.outer is None else self.outer[index]
        return Parts(self.codes[index * rows : (index + 1) * rows], self.scale[tiles], outer)

    def _scale_shape(self, spec: Scheme) -> tuple[int, ...]:
        down, across = spec.scale_shape((self.rows // self.groups, self.cols))
        return self.groups * down, across

    def _outer_shape(self) -> tuple[int, ...]:
        return () if self.groups == 1 else (self.groups,)

    def fill(self, codes: Tensor, scale: Tensor, outer: Tensor | None, zero_point: Tensor | None) -> Self:
        """Takes one code per element [rows, cols] and their numbers, copied. TypeError and ValueError by name."""
        spec = parse(self.scheme)
        shape, dtype = (self.rows, self.cols), layout_of(spec.element).code_dtype
        if codes.dtype != dtype or tuple(codes.shape) != shape:
            raise ValueError(f"codes: {spec} needs {dtype} {shape}, got {codes.dtype} {tuple(codes.shape)}")
        expected = {
            "scale": (scale, self._scale_shape(spec), scale_dtype(spec)),
            "outer": (outer, self._outer_shape(), torch.float32),
            "zero_point": (zero_point, self._scale_shape(spec), torch.float32),
        }
        if (outer is None) == spec.two_level:
            raise ValueError(f"outer: {spec} has {'a' if spec.two_level else 'no'} second scale for the whole tensor")
        for name, (given, size, kind) in expected.items():
            if given is not None and (tuple(given.shape) != size or given.dtype != kind):
                raise ValueError(f"{name}: {spec} needs {kind} {size}, got {given.dtype} {tuple(given.shape)}")
        with torch.no_grad():
            self.codes = stored_codes(codes.detach(), spec.element).clone()
            self.outer = None if outer is None else outer.detach().clone()
            self.zero_point = None if zero_point is None else zero_point.detach().contiguous().clone()
            if self.second is None:
                self.scale = scale.detach().contiguous().clone()
            else:
                self.scale, self.second, self.mean = double_encoded(scale.detach())
        return self

    def quantized_from(self, weight: Tensor) -> Self:
        """Takes the codes of `weight` under the scheme. ValueError if it has no values (on the meta device), or is not
        finite and the scales are double."""
        check_values(weight)
        codes, scale, outer = quantize_raw(weight.detach(), self.scheme)
        spec = parse(self.scheme)
        if self.second is not None:
            if not bool(torch.isfinite(scale).all()):
                raise ValueError(
                    "weight: has a NaN or an infinity, which double quantisation would spread to all scales"
                )
            zero = whole(Parts(stored_codes(codes, spec.element), torch.ones_like(scale)), self.scheme, self.cols,
                         torch.float32) == 0  # fmt: skip
            scale = torch.where(_every(zero, spec, scale.shape[1]), 0.0, scale)
        return self.fill(codes, scale, outer if spec.two_level else None, None)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight [rows, cols] in `dtype` (default: `self.dtype`), rounded once from float32."""
        target = self.dtype if dtype is None else dtype
        wide = torch.float32 if target == torch.float64 else target
        groups = [whole(self.group(index), self.scheme, self.cols, wide) for index in range(self.groups)]
        return (groups[0] if self.groups == 1 else torch.cat(groups)).to(target)

    @property
    def encoded(self) -> dict[str, Encoded]:
        """The weight, for files."""
        parts = {name: part for name, part in self.parts._asdict().items() if part is not None}
        matrix = (self.rows, self.cols)
        return {"weight": Encoded(parse(self.scheme), matrix, self.dtype, parts, matrix=matrix, groups=self.groups)}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def _meaning(self) -> dict[str, Any]:
        """What decides, beside the buffers, which weight the codes are."""
        return {"scheme": self.scheme}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # The place of this module's `local_metadata`; a dictionary that the caller gave may have none.
        if hasattr(destination, "_metadata"):
            destination._metadata.setdefault(prefix[:-1], {}).update(self._meaning())

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Mapping[str, Any], *args: Any, **keywords: Any
    ) -> None:
        own = self._meaning()
        for name, value in own.items():
            if local_metadata.get(name, value) != value:
                errors: list[str] = args[3]
                errors.append(
                    f"state_dict: {prefix}codes are of {name} {local_metadata[name]}, accepted here: {name} {value}"
                )
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **keywords)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: self._buffers[name] for name in NUMBERS}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.codes.device)).dtype
        return self

    def _described(self) -> dict[str, Any]:
        return {
            "weight": self.scheme,
            "zero_point": self.zero_point is not None,
            "double_scale": self.second is not None,
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def _every(flags: Tensor, spec: Scheme, tiles: int) -> Tensor:
    """Whether all flags [rows, cols] of each tile of one row are set: [rows, tiles]."""
    width = spec.tile[1] or max(flags.shape[1], 1)
    padded = nn.functional.pad(flags, (0, tiles * width - flags.shape[1]), value=True)
    return padded.unflatten(1, (tiles, width)).all(2)


def checked_scheme(scheme: str | Scheme, name: str) -> Scheme:
    """The scheme, if a frozen weight can have it; ValueError and TypeError that name the argument."""
    with _named(name):
        spec = parse(scheme)
        layout_for(spec)  # refuses what kernels do not serve
    if spec.stochastic:
        raise ValueError(f"{name}: got {str(spec)!r}, accepted: schemes that round to nearest; leave out '+sr'")
    return spec


def checked_slot(slot: str | AnyScheme, name: str) -> AnyScheme:
    """The slot of an input; ValueError and TypeError that name the argument."""
    with _named(name):
        return parse_operand(slot)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def check_double(spec: Scheme) -> None:
    """ValueError unless the scheme has float32 scales for parts of single rows."""
    if isinstance(spec.format, BlockFormat) or spec.tile[0] != 1:
        what = "scale codes" if isinstance(spec.format, BlockFormat) else "scales that rows share"
        raise ValueError(
            f"double_scale: {spec} has {what}, accepted: float32 scales of blocks of a row, such as nf4/1x64"
        )


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """torch.float32 or "float32" as the dtype; ValueError for other names."""
    if isinstance(dtype, torch.dtype):
        return dtype
    named = {str(known).removeprefix("torch."): known for known in DTYPES}
    if dtype not in named:
        raise ValueError(f"dtype: got {dtype!r}, accepted: {', '.join(named)}")
    return named[dtype]
