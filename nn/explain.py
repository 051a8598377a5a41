"""`explain(model)`: which GEMM of which layer runs in what, on which implementation; what was left alone, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from narrowgauge.formats import Scheme
from narrowgauge.kernels._gemm_plan import INTERPRETER, operand_type, scale_columns, target_of
from narrowgauge.kernels.layout import layout_of
from narrowgauge.nn.convert import left_alone, linear_layers
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.recipe import GEMMS

HIGH_PRECISION = "high precision"


@dataclass(frozen=True)
class GemmRow:
    """One GEMM: its two operand schemes, and how it runs on the layer's device."""

    operands: str
    runs: str


@dataclass(frozen=True)
class LayerRow:
    """One linear layer. gemms: fprop, dgrad, wgrad, empty for a layer left alone; reason: why it was."""

    name: str
    shape: tuple[int, int]
    recipe: str
    gemms: dict[str, GemmRow]
    reason: str


@dataclass(frozen=True)
class Explanation:
    """Rows in the order of the model. `str()` is a table, `to_dict()` plain data."""

    rows: tuple[LayerRow, ...]

    @property
    def converted(self) -> tuple[LayerRow, ...]:
        """The rows of quantised layers."""
        return tuple(row for row in self.rows if row.gemms)

    def to_dict(self) -> dict[str, Any]:
        """{"layers": [...], "converted": count, "left_alone": count}."""
        return {
            "layers": [asdict(row) for row in self.rows],
            "converted": len(self.converted),
            "left_alone": len(self.rows) - len(self.converted),
        }

    def __str__(self) -> str:
        table = [("layer", "out x in", "GEMM", "operands", "runs")]
        for row in self.rows:
            shape = f"{row.shape[0]} x {row.shape[1]}"
            if not row.gemms:
                table.append((row.name, shape, "all", HIGH_PRECISION, f"left alone: {row.reason}"))
            for index, (gemm, info) in enumerate(row.gemms.items()):
                first = (row.name, shape) if index == 0 else ("", "")
                table.append((*first, gemm, info.operands, info.runs))
        widths = [max(len(line[column]) for line in table) for column in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        lines.append(f"{len(self.converted)} layers quantised, {len(self.rows) - len(self.converted)} left alone")
        return "\n".join(line.rstrip() for line in lines)


def _gemm_row(layer: QuantLinear, gemm: str) -> GemmRow:
    a, b = (layer.recipe.slots[slot] for slot in GEMMS[gemm])
    operands = f"{a or 'none'} x {b or 'none'}"
    if a is None and b is None:
        return GemmRow(HIGH_PRECISION, f"{layer.weight.dtype} matmul".removeprefix("torch."))
    if a is None or b is None:
        return GemmRow(operands, "emulated: dequantised, then a high-precision matmul")
    return GemmRow(operands, _how(layer.weight.device, a, b))


def _how(device: torch.device, a: Scheme, b: Scheme) -> str:
    """How the scaled GEMM of two schemes runs on `device`, in words."""
    target = target_of(device)
    operand = operand_type(a.element, b.element, target)
    if operand == "int8" and target == INTERPRETER:
        whole = scale_columns(a.factor_tile, b.factor_tile) == 0
        return f"emulated: {'exact integer products' if whole else 'decoded to float32'} through float32 BLAS"
    decoded = "decoded by table" if "table" in (layout_of(a.element).kind, layout_of(b.element).kind) else "decoded"
    if target == INTERPRETER:
        return f"emulated: {decoded} to float32, BLAS"
    if operand in ("fp8", "int8"):
        return f"native: {operand} tensor cores of {target}"
    units = "float32 arithmetic" if operand == "fp32" else f"{operand} tensor cores"
    return f"emulated: {decoded} in registers, {units} of {target}"


def explain(model: nn.Module) -> Explanation:
    """How every linear layer below `model` runs on its present device; a model without any gives an empty table."""
    rows = []
    for _, _, layer, name in linear_layers(model):
        shape = (layer.out_features, layer.in_features)
        if isinstance(layer, QuantLinear) and layer.recipe.quantized:
            gemms = {gemm: _gemm_row(layer, gemm) for gemm in GEMMS}
            rows.append(LayerRow(name, shape, layer.recipe.name, gemms, ""))
        else:
            rows.append(LayerRow(name, shape, "", {}, _reason(layer, name)))
    return Explanation(tuple(rows))


def _reason(layer: nn.Linear, name: str) -> str:
    if isinstance(layer, QuantLinear):
        return f"recipe {layer.recipe.name!r} quantises nothing"
    return left_alone(layer, name, None, ()) or "not converted (skip, filter_fn, or convert was not called)"
