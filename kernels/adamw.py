"""adamw_step: one AdamW step of one parameter, moments read and written in their stored form, in one pass.

    p ← p · (1 - lr · weight_decay)                      (Loshchilov & Hutter, arXiv 1711.05101: decoupled decay)
    m ← β₁ m + (1 - β₁) g          v ← β₂ v + (1 - β₂) g²
    p ← p - lr / (1 - β₁^t) · m / (sqrt(v) / sqrt(1 - β₂^t) + ε)

`torch.ops.narrowgauge.adamw_step(p, g, m, m_scale, v, v_scale, m_codec, v_codec, step, lr, beta1, beta2, eps,
weight_decay, maximize)` writes p, m, m_scale, v and v_scale.
  p, g           any one shape; float32, bfloat16 or float16 each, any strides; the arithmetic is float32
  m, v           codes or values of the flattened parameter, contiguous (kernels/moments.py)
  m_scale        [groups, columns] float32, None for codecs without; v_scale likewise
  m_codec        a name of kernels/moments.CODECS, or a scheme such as nf4/1x128; v_codec likewise
  step           t, counted from 1
The update uses the fresh m and v, before they are rounded. A NaN or an infinity in g goes into p as in torch's AdamW,
and into the stored moments of its group (of its element, for plain moments), nowhere else.

Range expansion takes logarithms, whose last bits differ between mathematical libraries: across implementations codes
agree except where a value lies within rounding errors of the border between two of them, and then by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels import _adamw_torch, _adamw_triton
from narrowgauge.kernels._moments_reference import Array, decode_reference, encode_reference
from narrowgauge.kernels.moments import (
    CODECS,
    MomentCodec,
    check_moment,
    empty_moment,
    first_moment,
    second_moment,
)
from narrowgauge.kernels.op import Cost, ErrorBound, Op, Sample, register

PARAMETER_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_arguments(
    p: Tensor, g: Tensor, m: Tensor, m_scale: Tensor | None, v: Tensor, v_scale: Tensor | None,
    m_codec: str, v_codec: str, step: int,
) -> tuple[MomentCodec, MomentCodec]:  # fmt: skip
    """The two codecs. TypeError or ValueError, naming the argument, for what the op cannot mean."""
    first, second = first_moment(m_codec), second_moment(v_codec)
    for name, tensor in (("p", p), ("g", g)):
        if tensor.dtype not in PARAMETER_DTYPES:
            accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in PARAMETER_DTYPES)
            raise TypeError(f"{name}: expected dtype {accepted}, got {str(tensor.dtype).removeprefix('torch.')}")
    if g.shape != p.shape:
        raise ValueError(f"g: expected the shape of p, {tuple(p.shape)}, got {tuple(g.shape)}")
    if step < 1:
        raise ValueError(f"step: steps count from 1, got {step}")
    check_moment(first, m, m_scale, p.numel(), "m")
    check_moment(second, v, v_scale, p.numel(), "v")
    return first, second


def _in_flat(implementation: Any) -> Any:
    """The op's signature around an implementation for flat, contiguous p and g and checked arguments."""

    def step_in_place(
        p: Tensor, g: Tensor, m: Tensor, m_scale: Tensor | None, v: Tensor, v_scale: Tensor | None,
        m_codec: str, v_codec: str, step: int, *scalars: Any,
    ) -> None:  # fmt: skip
        codecs = check_arguments(p, g, m, m_scale, v, v_scale, m_codec, v_codec, step)
        flat = p.detach().reshape(-1)
        implementation(flat, g.reshape(-1), m, m_scale, v, v_scale, *codecs, step, *scalars)
        if flat.data_ptr() != p.data_ptr():
            p.detach().copy_(flat.view(p.shape))

    return step_in_place


def _fake(
    p: Tensor, g: Tensor, m: Tensor, m_scale: Tensor | None, v: Tensor, v_scale: Tensor | None,
    m_codec: str, v_codec: str, step: int, *scalars: Any,
) -> None:  # fmt: skip
    check_arguments(p, g, m, m_scale, v, v_scale, m_codec, v_codec, step)


def _load(codes: Tensor, scale: Tensor | None, codec: MomentCodec) -> Array:
    if scale is None:
        return codes.reshape(-1).double().numpy()
    return decode_reference(codes.numpy(), scale.numpy(), codec)


def _save(x: Array, codec: MomentCodec, shape: torch.Size) -> tuple[Tensor, Tensor | None]:
    if not codec.columns:
        return torch.from_numpy(x).to(codec.dtype).view(shape), None
    codes, scale = encode_reference(x, codec)
    return torch.from_numpy(codes).view(shape), torch.from_numpy(scale)


def _exact(args: tuple[Any, ...]) -> tuple[Array, Array, Array, Array]:
    """(p, change of p but for the decay, m, v) after the step, flat, in float64."""
    p, g, m, m_scale, v, v_scale, m_codec, v_codec, step, lr, beta1, beta2, eps, weight_decay, maximize = args
    gradient = g.detach().reshape(-1).cpu().double().numpy() * (-1.0 if maximize else 1.0)
    with np.errstate(all="ignore"):  # NaN and infinite gradients go through as they come
        m64 = beta1 * _load(m.cpu(), _cpu(m_scale), first_moment(m_codec)) + (1 - beta1) * gradient
        v64 = beta2 * _load(v.cpu(), _cpu(v_scale), second_moment(v_codec)) + (1 - beta2) * gradient**2
        change = lr / (1 - beta1**step) * m64 / (np.sqrt(v64 / (1 - beta2**step)) + eps)
    decayed = p.detach().reshape(-1).cpu().double().numpy() * (1 - lr * weight_decay)
    return decayed - change, change, m64, v64


def _cpu(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.cpu()


def _reference(*args: Any) -> tuple[Tensor | None, ...]:
    p, m_codec, v_codec = args[0], args[6], args[7]
    updated, _, m, v = _exact(args)
    stepped = torch.from_numpy(updated).to(p.dtype).view(p.shape)
    return stepped, *_save(m, first_moment(m_codec), p.shape), *_save(v, second_moment(v_codec), p.shape)


RELATIVE_ERROR = 1e-4
"""Bound on the relative error of a decoded moment: GPUs take log2 to 2^-22, and 1 / k makes up to 72 of it."""


def _code_distance(x: Array, codec: MomentCodec) -> Array:
    """How far apart the codes of values within rounding errors of x may lie: neighbours in value, which need not be
    neighbours in code."""
    if codec.kind == "expanded":
        return np.ones(x.size)
    element, scale = codec.element, encode_reference(x, codec)[1][:, 0].astype(np.float64)
    finite = np.nan_to_num(x, posinf=0.0, neginf=0.0)
    y = (np.sqrt(finite) if codec.kind == "root" else finite) / np.nan_to_num(scale, nan=1.0).repeat(codec.group)[
        : x.size
    ]
    error = 1e-5 * np.abs(y) + 2.0**-20 * element.max
    low, high = (element.encode(np.maximum(side, 0.0) if codec.second else side) for side in (y - error, y + error))
    return np.maximum(1.0, np.abs(high.astype(np.float64) - low.astype(np.float64)))


def _tolerance(*args: Any) -> tuple[Tensor, ...]:
    """How far p, m, m_scale, v and v_scale (those that exist) may lie from the reference's."""
    p, m_codec, v_codec = args[0], args[6], args[7]
    updated, change, *moments = _exact(args)
    rounding = torch.finfo(p.dtype).eps * np.abs(updated) if p.dtype is not torch.float32 else 0.0
    p_bound = RELATIVE_ERROR * np.abs(change) + 2.0**-21 * np.abs(updated) + rounding
    bounds = [torch.from_numpy(np.nan_to_num(p_bound)).view(p.shape)]
    for x, codec in zip(moments, (first_moment(m_codec), second_moment(v_codec)), strict=True):
        if not codec.columns:
            # m = β₁ m + (1 - β₁) g may cancel, but not below the rounding errors of its two terms.
            largest = float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))
            unit = max(torch.finfo(codec.dtype).eps, 2.0**-21)
            bounds.append(torch.from_numpy(np.nan_to_num(unit * np.abs(x) + 2.0**-21 * largest)).view(p.shape))
            continue
        scale = encode_reference(x, codec)[1]
        bounds += [
            torch.from_numpy(_code_distance(x, codec)).view(p.shape),
            torch.from_numpy(np.nan_to_num(RELATIVE_ERROR * scale)),
        ]
    return tuple(bounds)


def _cost(*args: Any) -> Cost:
    p, g, m, m_scale, v, v_scale = args[:6]
    states = sum(t.nbytes for t in (m, m_scale, v, v_scale) if t is not None)
    return Cost(flops=14.0 * p.numel(), bytes=2.0 * p.nbytes + g.nbytes + 2.0 * states)


SCALARS = (1e-3, 0.9, 0.95, 1e-8, 1e-2, False)
"""lr, beta1, beta2, eps, weight_decay, maximize of most samples."""


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(np.asarray(rng.standard_normal(shape), dtype=np.float32))

    def sample(name: str, p: Tensor, g: Tensor, codecs: tuple[str, str], step: int, *scalars: Any) -> Sample:
        first, second = first_moment(codecs[0]), second_moment(codecs[1])
        old = 1e-3 * rng.standard_normal((2, p.numel())) * np.exp(rng.standard_normal((2, p.numel())))
        stored = (*_save(old[0], first, p.shape), *_save(old[1] ** 2, second, p.shape))
        if step == 1:
            stored = (*empty_moment(first, p), *empty_moment(second, p))
        moved = (t if t is None else t.to(device) for t in (p, g, *stored))
        return Sample(name, (*moved, *codecs, step, *(scalars or SCALARS)))

    for name in CODECS:
        both = (name, name)
        p, g = normal(17, 71), 1e-3 * normal(17, 71)
        yield sample(f"{name} first step", p, g, both, 1)
        yield sample(f"{name} later", p, g, both, 7)
        yield sample(f"{name} late, no decay, maximize", p, g, both, 5000, 3e-4, 0.9, 0.999, 1e-12, 0.0, True)
        sparse = torch.where(torch.rand(17, 71, generator=torch.Generator().manual_seed(1)) < 0.5, 0.0, g)
        yield sample(f"{name} zeros", p, sparse, both, 1)
        broken = g.clone()
        broken[0, 3] = float("nan")
        broken[12, 5] = float("inf") if first_moment(name).columns else float("nan")
        yield sample(f"{name} not finite", p, broken, both, 2)
        yield sample(f"{name} constant", p, torch.full((17, 71), 0.37), both, 1)
    for dtype in (torch.bfloat16, torch.float16):
        p, g = normal(1500).to(dtype), (1e-2 * normal(1500)).to(dtype)
        for name in ("coat", "fp8", "fp32"):
            yield sample(f"{name} {dtype}", p, g, (name, name), 3)
    yield sample("float32 p, bfloat16 g", normal(1500), (1e-2 * normal(1500)).bfloat16(), ("coat", "coat"), 3)
    for shape in ((), (1,), (0, 5), (128,), (255,), (3, 5, 17), (1, 1025)):
        for name in ("coat", "int8", "dynamic8"):
            yield sample(f"{name} {shape}", normal(*shape), 1e-4 * normal(*shape), (name, name), 4)
    for codecs in (
        ("nf4/1x128", "udynamic8/1x256"),
        ("e3m4/1x64", "uint8/1x32"),
        ("int6f3/1x32", "rf8/1x16"),
        ("e1m2/1x512", "nf4/1x1024"),
    ):
        yield sample(" and ".join(codecs), normal(1500), 1e-3 * normal(1500), codecs, 5)
    mixed = (("dynamic8", "coat"), ("coat", "fp8"), ("fp8", "coat"), ("bf16", "coat"), ("int8", "fp32"))
    for codecs in mixed:
        yield sample(" and ".join(codecs), normal(777), 1e-3 * normal(777), codecs, 9)
    yield sample("coat strided", normal(64, 90)[::2, 3:80:2], normal(39, 32).t(), ("coat", "coat"), 3)


ADAMW_STEP = register(
    Op(
        name="adamw_step",
        schema="(Tensor(a!) p, Tensor g, Tensor(b!) m, Tensor(c!)? m_scale, Tensor(d!) v, Tensor(e!)? v_scale, "
        "str m_codec, str v_codec, int step, float lr, float beta1, float beta2, float eps, float weight_decay, "
        "bool maximize) -> ()",
        reference=_reference,
        torch_impl=_in_flat(_adamw_torch.run),
        triton_impl=_in_flat(_adamw_triton.launch),
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=ErrorBound(_tolerance),
        compile_cases=_adamw_triton.compile_cases,
        mutates=("p", "m", "m_scale", "v", "v_scale"),
    )
)
