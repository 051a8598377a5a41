"""optimizer_step on a CPU by torch.compile: the blocks of `_step_torch.py`, each one call of a fused function.

One compilation (10 to 30 seconds, cached on disk by torch) for a rule, codecs and master; sizes, dtypes and a step's
numbers change nothing. What is too small or ends within a group takes the way of `_step_torch.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels._blocks_torch import Block, Lists, blocks
from narrowgauge.kernels._codes_torch import narrow_codes, pack_codes
from narrowgauge.kernels._draws_torch import signed
from narrowgauge.kernels._pair_torch import BlockMoments
from narrowgauge.kernels._pure_codec import PureCodec, pure_codec
from narrowgauge.kernels._scratch_torch import Scratch
from narrowgauge.kernels._step_pure import Operands, block_step, numbers_of
from narrowgauge.kernels._step_torch import LEAST_ELEMENTS, Step
from narrowgauge.kernels.moments import LARGEST_GROUP, MomentCodec
from narrowgauge.kernels.random_words import TABLE_ELEMENTS, block_key, torch_table
from narrowgauge.kernels.step_rules import Row

CHUNK_ELEMENTS = 1 << 18
"""Elements of one call: it takes some microseconds to begin, and temporaries stay in the third-level cache."""
NARROWEST = 128
"""Elements of a row where no moment has groups."""


@lru_cache(maxsize=1)
def _words() -> Tensor:
    """The table of draws, one word an element."""
    return torch_table().repeat_interleave(2)


@lru_cache(maxsize=8)
def _halves(group: int) -> Tensor:
    return torch.tensor([1 << 16, 1], dtype=torch.int32).repeat(group // 2)


class Kind(NamedTuple):
    """What a step is compiled for."""

    rule: str
    first: MomentCodec | None
    second: MomentCodec | None
    master: str
    skip_nonfinite: bool


def _keys_of(kind: Kind) -> tuple[str, ...]:
    """Names of the row's keys that a step draws under, "" in place of those that it does not."""
    first, second = kind.first, kind.second
    needed = {
        "first_key": first is not None and first.draws,
        "second_key": second is not None and second.draws,
        "weight_key": kind.master != "none",
        "read_first_key": first is not None and first.rounding == "dither",
        "read_second_key": second is not None and second.rounding == "dither",
    }
    return tuple(key if draws else "" for key, draws in needed.items())


class CompiledStep:
    """The step of blocks of one kind. group: the smaller one of the moments. row: the larger."""

    def __init__(self, kind: Kind) -> None:
        codecs = [codec for codec in (kind.first, kind.second) if codec is not None]
        groups = [codec.group for codec in codecs if codec.is_coded] or [NARROWEST]
        self.group, self.row = min(groups), max(groups)
        self.keys = _keys_of(kind)
        step: Any = block_step(kind.rule, self._pure(kind.first), self._pure(kind.second), *kind[3:])
        # torch counts compilations by code object, and gives up after a few: each kind has one of its own.
        code = step.__code__.replace(co_name=f"step_{kind.rule}_{abs(hash(kind))}")
        own = FunctionType(code, step.__globals__, code.co_name, None, step.__closure__)
        self._function = torch.compile(own, fullgraph=True, options={"cpp.enable_floating_point_contract_flag": "fast"})
        self._is_compiled = False

    def _pure(self, codec: MomentCodec | None) -> PureCodec | None:
        """The codec as the function knows it: plain values are float32, a larger group has two axes."""
        if codec is None:
            return None
        pure = pure_codec(codec, torch.device("cpu"))
        if not codec.is_coded:
            return pure._replace(narrow=torch.float32)
        return pure._replace(axes=(-2, -1)) if codec.group > self.group else pure

    def __call__(self, operands: Operands) -> None:
        if not self._is_compiled:
            _require_compiler()
            for tensor in operands[: Operands._fields.index("halves")]:
                if tensor is not None:
                    torch._dynamo.mark_dynamic(tensor, 0)
        self._function(*operands)
        self._is_compiled = True


compiled_step = lru_cache(maxsize=256)(CompiledStep)
"""`CompiledStep` of a kind: there is one."""


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            "compiled: torch.compile needs a C++ compiler, and found none; install g++ or clang, or leave it False"
        ) from error


def run(
    rule: str, p: Sequence[Tensor], g: Sequence[Tensor], m: Sequence[Tensor], m_scale: Sequence[Tensor],
    v: Sequence[Tensor], v_scale: Sequence[Tensor], residual: Sequence[Tensor], first: MomentCodec | None,
    second: MomentCodec | None, master: str, rows: Tensor, maximize: bool, skip_nonfinite: bool,
) -> None:  # fmt: skip
    """As `_step_torch.run`. ValueError where there is no C++ compiler."""
    counts = [tensor.numel() for tensor in p]
    scratch = Scratch(min(CHUNK_ELEMENTS, sum(counts) + LARGEST_GROUP * len(counts)))
    numbers = [Row(*row) for row in rows.tolist()]
    kind = Kind(rule, first, second, master, skip_nonfinite)
    rest = Step(rule, master, maximize, skip_nonfinite, BlockMoments(first, second, numbers, scratch))
    prepare = _Blocks(kind, -1.0 if maximize else 1.0, scratch)
    lists = Lists(p, g, m, m_scale, v, v_scale, residual)
    for block in blocks(counts, lists, numbers, (first, second), CHUNK_ELEMENTS, LEAST_ELEMENTS, scratch):
        if not prepare.step(block):
            rest(block)


class _Blocks:
    """Turns blocks into operands."""

    def __init__(self, kind: Kind, sign: float, scratch: Scratch) -> None:
        self.kind, self.sign, self.scratch = kind, sign, scratch
        self.compiled = compiled_step(kind)
        self.shape = (-1, self.compiled.row // self.compiled.group, self.compiled.group)
        self.row: Row | None = None
        self.numbers = torch.empty(0)

    def step(self, block: Block) -> bool:
        """Makes the step of a block, if it can: of a large piece, in whole rows, that the table of draws holds."""
        if len(block.pieces) > 1 or block.size < LEAST_ELEMENTS or block.size % self.compiled.row:
            return False
        row = block.row
        place, inner = divmod(int(row.offset) + block.pieces[0].start, TABLE_ELEMENTS)
        if inner + block.size > TABLE_ELEMENTS:
            return False
        if row is not self.row:
            self.row, self.numbers = row, numbers_of(row, self.sign)
        views, scratch = block.views, self.scratch
        p, g = _wide(views.p, scratch.p), _wide(views.g, scratch.g)
        m, v = self._values(self.kind.first, views.m, scratch.m), self._values(self.kind.second, views.v, scratch.v)
        words = halves = keys = None
        if any(self.compiled.keys):
            words, halves = _words()[inner : inner + block.size].view(self.shape), _halves(self.compiled.group)
            drawn = [signed(block_key(int(getattr(row, key)), place)) if key else 0 for key in self.compiled.keys]
            keys = torch.tensor(drawn, dtype=torch.int32)
        m_scale, v_scale = self._numbers(self.kind.first, views.m_scale), self._numbers(self.kind.second, views.v_scale)
        self.compiled(Operands(
            p.view(self.shape), g.view(self.shape), self._shaped(m), m_scale, self._shaped(v), v_scale,
            self._shaped(views.residual), words, halves, keys, self.numbers,
        ))  # fmt: skip
        if p is not views.p:
            views.p.copy_(p)
        for codec, values, stored in ((self.kind.first, m, views.m), (self.kind.second, v, views.v)):
            if codec is not None and values is not None and stored is not None and values is not stored:
                if codec.is_coded:
                    pack_codes(values, stored, scratch.half)
                else:
                    stored.copy_(values)
        return True

    def _values(self, codec: MomentCodec | None, stored: Tensor | None, memory: Tensor) -> Tensor | None:
        """Codes, one a byte, or float32 values: what is stored itself, or in `memory`."""
        if codec is None or stored is None:
            return None
        return narrow_codes(codec, stored, memory.view(torch.int16)) if codec.is_coded else _wide(stored, memory)

    def _shaped(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else x.view(self.shape)

    def _numbers(self, codec: MomentCodec | None, scale: Tensor | None) -> Tensor | None:
        if codec is None or scale is None:
            return None
        if codec.kind == "log":
            scale = scale.view(torch.int32)
        return scale.view(-1, self.compiled.row // codec.group, scale.shape[1])


def _wide(x: Tensor, memory: Tensor) -> Tensor:
    return x if x.dtype is torch.float32 else memory[: x.numel()].copy_(x)
