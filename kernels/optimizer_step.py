"""optimizer_step: one step of many tensors under one update rule, states read and written in their stored form, in one
pass over each tensor, in place.

`torch.ops.narrowgauge.optimizer_step(rule, p, g, m, m_scale, v, v_scale, residual, m_codec, v_codec, master, rows,
maximize, skip_nonfinite)`, everything but the names, `rows` and the flags a list with one tensor for each parameter:

  rule           a name of kernels/step_rules.RULES
  p, g           any one shape; float32, bfloat16 or float16, any strides; the arithmetic is float32. p is written
  m, m_scale     stored first moments (kernels/moments.py) under m_codec; lists empty where the rule has none, m_scale
                 empty where the codec has no numbers
  v, v_scale     second moments likewise, under v_codec
  residual       int8, of p's shape, for master="residual"; else empty
  m_codec        a name of kernels/codecs.CODECS, or a scheme such as nf4/1x128; "" where the rule has no m. Only
                 where m is of the size of √v (Rule.relative) do whitened codecs whiten
  master         a name of kernels/step_rules.MASTERS; "sr" and "residual" take bfloat16 parameters
  rows           [tensors, ROW_LENGTH] float64, on the CPU or the tensors' device (kernels/step_rules.Row)
  skip_nonfinite elements whose gradient is not finite count as zero gradient; else they go into p as in torch's
                 optimizers, and into the stored moments of their group, nowhere else

The update uses the fresh m and v, before they are rounded. Logarithms and exponentials differ in their last bits
between mathematical libraries: across implementations codes agree except where a value lies within rounding errors of
the border between two of them, and then by one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from narrowgauge.kernels import _step_bounds, _step_samples, _step_torch, _step_triton
from narrowgauge.kernels._step_checks import PARAMETER_DTYPES, Tensors, check_arguments, rule_codecs
from narrowgauge.kernels._step_reference import reference
from narrowgauge.kernels.op import Cost, ErrorBound, Op, register

__all__ = ["OPTIMIZER_STEP", "PARAMETER_DTYPES", "check_arguments", "rule_codecs"]


def in_flat(implementation: Any) -> Any:
    """The op's signature around an implementation for flat, contiguous tensors and checked arguments."""

    def step_in_place(
        rule: str, p: Tensors, g: Tensors, m: Tensors, m_scale: Tensors, v: Tensors, v_scale: Tensors,
        residual: Tensors, m_codec: str, v_codec: str, master: str, rows: Tensor, maximize: bool, skip_nonfinite: bool,
    ) -> None:  # fmt: skip
        codecs = check_arguments(rule, p, g, m, m_scale, v, v_scale, residual, m_codec, v_codec, master, rows)
        if not p:
            return
        flat = _flat(p)
        implementation(
            rule, flat, _flat(g), _flat(m), list(m_scale), _flat(v), list(v_scale), _flat(residual), *codecs, master,
            rows, maximize, skip_nonfinite,
        )  # fmt: skip
        for parameter, written in zip(p, flat, strict=True):
            if written.data_ptr() != parameter.data_ptr():
                parameter.detach().copy_(written.view(parameter.shape))

    return step_in_place


def _flat(tensors: Tensors) -> list[Tensor]:
    return [tensor.detach().reshape(-1) for tensor in tensors]


def _fake(*args: Any) -> None:
    check_arguments(*args[:12])


def _cost(*args: Any) -> Cost:
    p, g = args[1], args[2]
    written = sum(t.nbytes for tensors in (p, *args[3:8]) for t in tensors)
    return Cost(flops=14.0 * sum(t.numel() for t in p), bytes=2.0 * written + sum(t.nbytes for t in g))


OPTIMIZER_STEP = register(
    Op(
        name="optimizer_step",
        schema="(str rule, Tensor(a!)[] p, Tensor[] g, Tensor(b!)[] m, Tensor(c!)[] m_scale, Tensor(d!)[] v, "
        "Tensor(e!)[] v_scale, Tensor(f!)[] residual, str m_codec, str v_codec, str master, Tensor rows, "
        "bool maximize, bool skip_nonfinite) -> ()",
        reference=reference,
        torch_impl=in_flat(_step_torch.run),
        triton_impl=in_flat(_step_triton.launch),
        fake=_fake,
        samples=_step_samples.samples,
        cost=_cost,
        bound=ErrorBound(_step_bounds.tolerance, _step_bounds.values),
        compile_cases=_step_triton.compile_cases,
        mutates=("p", "m", "m_scale", "v", "v_scale", "residual"),
    )
)
