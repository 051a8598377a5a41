"""Calls of optimizer_step on which its implementations are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels._moments_reference import Stored
from narrowgauge.kernels._step_checks import rule_codecs
from narrowgauge.kernels._step_reference import write_moments
from narrowgauge.kernels.codecs import CODECS
from narrowgauge.kernels.moments import MomentCodec, empty_moment
from narrowgauge.kernels.op import Sample
from narrowgauge.kernels.step_rules import ROW_LENGTH, RULES, Row

SHAPE = (17, 71)
SHAPES = ((), (0, 5), (1,), (128,), (255,), (3, 5, 17), (1, 1025), (64, 6))
FUSED = [name for name, (_, second) in CODECS.items() if second.fused]
BROKEN_AT = (0, 3), (12, 5)


class _Maker:
    """Makes calls; every draw is from `rng`, and everything moves to `device`."""

    def __init__(self, rng: np.random.Generator, device: str) -> None:
        self.rng, self.device = rng, device

    def normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(np.asarray(self.rng.standard_normal(shape), dtype=np.float32))

    def key(self) -> float:
        return float(self.rng.integers(1 << 32))

    def row(self, step: int, options: dict[str, float]) -> Row:
        row = Row(
            step, lr=1e-3, weight_decay=1e-2, a=0.9, b=0.95, eps=1e-8, c1=1.0, c2=1.0, first_key=self.key(),
            second_key=self.key(), weight_key=self.key(), read_first_key=self.key(), read_second_key=self.key(),
        )._replace(**options)  # fmt: skip
        return row._replace(c1=1 - row.a**step, c2=1 - row.b**step)

    def state(
        self, p: Tensor, first: MomentCodec | None, second: MomentCodec | None, row: Row
    ) -> tuple[tuple[Tensor, Tensor | None] | None, tuple[Tensor, Tensor | None] | None]:
        """Stored (m, v) of a parameter: zeros before the first step, else of gradients whose scales vary."""
        if row.step == 1:
            return first and empty_moment(first, p), second and empty_moment(second, p)
        size = np.exp(self.rng.standard_normal(p.numel()))
        m = (1e-3 * self.rng.standard_normal(p.numel()) * size).astype(np.float32).astype(np.float64)
        v = (1e-6 * self.rng.chisquare(10, p.numel()) * size**2).astype(np.float32).astype(np.float64)
        keys, offset = (int(row.read_first_key), int(row.read_second_key)), int(row.offset)
        stored_m, stored_v = write_moments((first, second), m, v, keys, offset)
        return (
            None if first is None or stored_m is None else _tensors(first, stored_m, p),
            None if second is None or stored_v is None else _tensors(second, stored_v, p),
        )

    def sample(
        self, name: str, p: list[Tensor], g: list[Tensor], codecs: tuple[str, str], *, rule: str = "adamw",
        step: int = 7, master: str = "none", maximize: bool = False, skip: bool = False, **options: float,
    ) -> Sample:  # fmt: skip
        has = RULES[rule]
        names = codecs[0] if has.first else "", codecs[1] if has.second else ""
        rows = [self.row(step, options) for _ in p]
        first, second = rule_codecs(rule, *names)
        states = [self.state(t, first, second, row) for t, row in zip(p, rows, strict=True)]
        residual = []
        if master == "residual":
            residual = [torch.from_numpy(self.rng.integers(-127, 128, t.shape, dtype=np.int8)) for t in p]
        columns: list[list[Tensor]] = [[], [], [], []]
        for state in states:
            for place, stored in enumerate(state):
                if stored is not None:
                    columns[2 * place].append(stored[0])
                    if stored[1] is not None:
                        columns[2 * place + 1].append(stored[1])
        lists = [[t.to(self.device) for t in tensors] for tensors in (p, g, *columns, residual)]
        table = torch.tensor([list(row) for row in rows], dtype=torch.float64).view(-1, ROW_LENGTH)
        if len(p) > 1:  # else they stay on the CPU, which the op takes as well
            table = table.to(self.device)
        return Sample(name, (rule, *lists, *names, master, table, maximize, skip))


def _tensors(codec: MomentCodec, stored: Stored, p: Tensor) -> tuple[Tensor, Tensor | None]:
    codes, scale = empty_moment(codec, p)
    codes.view(-1).copy_(torch.from_numpy(stored.codes))
    if scale is not None:
        scale.copy_(torch.from_numpy(stored.scale))
    return codes, scale


def samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    """All codecs under adamw, all rules with some codecs, and what else differs: dtypes, masters, shapes, draws."""
    make = _Maker(rng, device)
    for name in FUSED:
        yield from _of_codec(make, name)
    for name in ("int4", "solo"):
        yield make.sample(f"{name} and log4", [make.normal(*SHAPE)], [1e-3 * make.normal(*SHAPE)], (name, "log4"))
    for rule in RULES:
        options: dict[str, Any] = {"b": 0.1} if rule.startswith("sgd") else {}
        for name in ("fp32", "coat", "log8", "log4"):
            p, g = [make.normal(*SHAPE)], [1e-3 * make.normal(*SHAPE)]
            yield make.sample(f"{rule} {name}", p, g, (name, name), rule=rule, maximize=name == "coat", **options)
        yield make.sample(f"{rule} first step", p, g, ("int8", "int8"), rule=rule, step=1, **options)
    yield from _of_dtypes(make)
    yield from _of_shapes(make)


def _of_codec(make: _Maker, name: str) -> Iterator[Sample]:
    both = name, name
    p, g = make.normal(*SHAPE), 1e-3 * make.normal(*SHAPE)
    sparse = torch.where(torch.from_numpy(make.rng.random(SHAPE)) < 0.5, 0.0, g)
    broken = g.clone()
    broken[BROKEN_AT[0]], broken[BROKEN_AT[1]] = torch.nan, torch.inf
    yield make.sample(f"{name} first step", [p], [g], both, step=1)
    yield make.sample(f"{name} later", [p], [g], both, grad_scale=0.37)
    yield make.sample(
        f"{name} late", [p], [g], both, step=5000, lr=3e-4, b=0.999, eps=1e-12, weight_decay=0.0, maximize=True
    )
    yield make.sample(f"{name} zeros", [p], [sparse], both, step=1)
    yield make.sample(f"{name} not finite", [p], [broken], both, step=2)
    yield make.sample(f"{name} not finite, skipped", [p], [broken], both, step=2, skip=True)
    yield make.sample(f"{name} constant", [p], [torch.full(SHAPE, 0.37)], both, step=1)


def _of_dtypes(make: _Maker) -> Iterator[Sample]:
    for dtype in (torch.bfloat16, torch.float16):
        for name in ("coat", "log8", "fp32"):
            p, g = make.normal(1500).to(dtype), (1e-2 * make.normal(1500)).to(dtype)
            yield make.sample(f"{name} {dtype}", [p], [g], (name, name), step=3)
    yield make.sample("float32 p, bfloat16 g", [make.normal(900)], [make.normal(900).bfloat16()], ("log8", "coat"))
    for master in ("sr", "residual"):
        for rule, name in (("adamw", "log8"), ("adamw", "fp32"), ("lion", "flash"), ("sgd", "int8")):
            p, g = make.normal(1301).bfloat16(), 1e-2 * make.normal(1301)
            p[:3] = torch.tensor([0.0, 2.0**-130, -(2.0**-126)])
            g[7] = torch.nan
            both = name, name
            yield make.sample(f"{master} {rule} {name}", [p], [g], both, rule=rule, master=master, lr=1e-2)
            yield make.sample(
                f"{master} {rule} {name}, bfloat16 g", [p], [g.bfloat16()], both, rule=rule, master=master, lr=1e-5,
                skip=True,
            )  # fmt: skip


def _of_shapes(make: _Maker) -> Iterator[Sample]:
    for name in ("coat", "int8", "dynamic8", "log8", "log4", "flash", "bf16_sr"):
        p, g = [make.normal(*shape) for shape in SHAPES], [1e-4 * make.normal(*shape) for shape in SHAPES]
        yield make.sample(f"{name} many tensors", p, g, (name, name), step=4)
    for name in ("log4", "bf16_sr", "log8"):
        p, g = [make.normal(1001).bfloat16()], [1e-3 * make.normal(1001)]
        # The first word beyond the table of kernels/random_words.py lies among these.
        yield make.sample(f"{name} offset", p, g, (name, name), master="residual", offset=2.0**18 - 386)
    for codecs in (
        ("nf4/1x128", "udynamic8/1x256"),
        ("e3m4/1x64", "uint8/1x32"),
        ("int6f3/1x32", "rf8/1x16"),
        ("e1m2/1x512", "nf4/1x1024"),
        ("dynamic8", "coat"),
        ("fp8", "log4"),
        ("log8", "fp32"),
        ("log4", "bf16_sr"),
        ("log8", "uint4/1x32"),
        ("int8", "fp32"),
    ):
        yield make.sample(" and ".join(codecs), [make.normal(777)], [1e-3 * make.normal(777)], codecs, step=9)
    strided = [make.normal(64, 90)[::2, 3:80:2], make.normal(5, 4, 3).transpose(0, 2)]
    gradients = [make.normal(39, 32).t(), make.normal(3, 4, 5)]
    yield make.sample("strided", strided, gradients, ("log8", "coat"), step=3)
    yield make.sample("no tensors", [], [], ("log8", "log8"))
