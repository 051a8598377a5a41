"""What optimizer_step accepts: the checks of its arguments, and the codecs that their names mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from narrowgauge.kernels.codecs import first_moment, lone_moment, second_moment
from narrowgauge.kernels.moments import MomentCodec, check_moment
from narrowgauge.kernels.step_rules import MASTERS, ROW_LENGTH, RULES

PARAMETER_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Tensors = Sequence[Tensor]
Codecs = tuple[MomentCodec | None, MomentCodec | None]


def rule_codecs(rule: str, m_codec: str, v_codec: str) -> Codecs:
    """(codec of m, codec of v) of a step under `rule`, None for a state that it does not have.

    TypeError or ValueError, naming the argument, for unknown rules and codecs and for codecs of states that the rule
    has not, or that the fused step does not store.
    """
    if rule not in RULES:
        raise ValueError(f"rule: unknown rule {rule!r}; known: {', '.join(RULES)}")
    has = RULES[rule]
    for name, text, needed in (("m_codec", m_codec, has.first), ("v_codec", v_codec, has.second)):
        if text and not needed:
            raise ValueError(f"{name}: the rule {rule} has no {name[0]}; expected '', got {text!r}")
        if needed and text == "":
            raise ValueError(f"{name}: the rule {rule} has {name[0]}; expected the name of a codec, got ''")
    first = None
    if has.first:
        first = first_moment(m_codec) if has.relative else lone_moment(m_codec)
    second = second_moment(v_codec) if has.second else None
    for name, text, codec in (("m_codec", m_codec, first), ("v_codec", v_codec, second)):
        if codec is not None and not codec.fused:
            raise ValueError(
                f"{name}: {text!r} is of the kind {codec.kind}, which needs the whole tensor and is stored by "
                "kernels/stored_moments.py; accepted here are the other kinds"
            )
    return first, second


def _check_length(name: str, tensors: Tensors, expected: int, why: str) -> None:
    if len(tensors) != expected:
        raise ValueError(f"{name}: expected {expected} tensors ({why}), got {len(tensors)}")


def _elsewhere(name: str, tensor: Tensor, device: torch.device) -> ValueError:
    return ValueError(f"{name}: expected the device of p[0], {device}, got {tensor.device}")


def _check_moments(
    name: str, codec: MomentCodec | None, codes: Tensors, scales: Tensors, p: Tensors, device: torch.device
) -> None:
    count, why = len(p), "one for each p"
    if codec is None:
        count, why = 0, f"the rule has no {name}"
    _check_length(name, codes, count, why)
    if codec is not None and not codec.columns:
        count, why = 0, "the codec has no numbers"
    _check_length(f"{name}_scale", scales, count, why)
    if codec is None:
        return
    dtypes, numbers = (codec.dtype, codec.torch_scale_dtype), bool(codec.columns)
    for index, parameter in enumerate(p):
        stored, scale = codes[index], scales[index] if numbers else None
        # A step of many small tensors waits for these checks: shapes are remembered (symbolic ones cannot be), and what
        # names a mistake runs only where there is one.
        size = parameter.shape
        count, shape = (_known_shape if all(type(n) is int for n in size) else _stored_shape)(codec, size)
        fits = stored.dtype is dtypes[0] and stored.numel() == count and stored.is_contiguous()
        if scale is not None:
            fits = fits and scale.dtype is dtypes[1] and scale.shape == shape and scale.is_contiguous()
        if not fits:
            check_moment(codec, stored, scale, parameter.shape, f"{name}[{index}]")
        if stored.device != device:
            raise _elsewhere(f"{name}[{index}]", stored, device)
        if scale is not None and scale.device != device:
            raise _elsewhere(f"{name}_scale[{index}]", scale, device)


def _stored_shape(codec: MomentCodec, shape: torch.Size) -> tuple[int, tuple[int, ...]]:
    """(elements of the codes, shape of the numbers)."""
    return torch.Size(codec.codes_shape(shape)).numel(), codec.scale_shape(shape)


_known_shape = lru_cache(maxsize=1024)(_stored_shape)


def check_arguments(
    rule: str, p: Tensors, g: Tensors, m: Tensors, m_scale: Tensors, v: Tensors, v_scale: Tensors, residual: Tensors,
    m_codec: str, v_codec: str, master: str, rows: Tensor,
) -> Codecs:  # fmt: skip
    """The two codecs, None for a state that the rule does not have. TypeError or ValueError, naming the argument, for
    what the op cannot mean."""
    codecs = rule_codecs(rule, m_codec, v_codec)
    if master not in MASTERS:
        raise ValueError(f"master: got {master!r}, accepted: {', '.join(MASTERS)}")
    _check_length("g", g, len(p), "one for each p")
    _check_length("residual", residual, len(p) if master == "residual" else 0, f"master is {master!r}")
    device = p[0].device if p else rows.device
    for index, (parameter, gradient) in enumerate(zip(p, g, strict=True)):
        for name, tensor in (("p", parameter), ("g", gradient)):
            if tensor.dtype not in PARAMETER_DTYPES:
                raise TypeError(
                    f"{name}[{index}]: expected dtype {_names(*PARAMETER_DTYPES)}, got {_names(tensor.dtype)}"
                )
            if tensor.device != device:
                raise _elsewhere(f"{name}[{index}]", tensor, device)
        if gradient.shape != parameter.shape:
            raise ValueError(
                f"g[{index}]: expected the shape of p[{index}], {tuple(parameter.shape)}, got {tuple(gradient.shape)}"
            )
        if master != "none" and parameter.dtype is not torch.bfloat16:
            raise TypeError(f"p[{index}]: master {master!r} takes bfloat16 parameters, got {_names(parameter.dtype)}")
    for index, tensor in enumerate(residual):
        if tensor.dtype is not torch.int8 or tensor.shape != p[index].shape or not tensor.is_contiguous():
            raise ValueError(
                f"residual[{index}]: expected contiguous int8 {tuple(p[index].shape)}, "
                f"got {_names(tensor.dtype)} {tuple(tensor.shape)}"
            )
        if tensor.device != device:
            raise _elsewhere(f"residual[{index}]", tensor, device)
    _check_moments("m", codecs[0], m, m_scale, p, device)
    _check_moments("v", codecs[1], v, v_scale, p, device)
    if rows.device not in (device, torch.device("cpu")):
        raise ValueError(f"rows: expected the device of p[0], {device}, or the CPU, got {rows.device}")
    if rows.dtype is not torch.float64 or tuple(rows.shape) != (len(p), ROW_LENGTH):
        raise ValueError(f"rows: expected float64 {(len(p), ROW_LENGTH)}, got {_names(rows.dtype)} {tuple(rows.shape)}")
    return codecs


def _names(*dtypes: torch.dtype) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
