"""`explain(model)`: which GEMM of which layer runs in what, on which implementation; what was left alone, and why; and
the memory before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from narrowgauge.formats import Scheme
from narrowgauge.formats.operand import AnyScheme, base_scheme
from narrowgauge.formats.slots import GEMMS
from narrowgauge.kernels._gemm_plan import INTERPRETER, operand_type, scale_columns, target_of
from narrowgauge.kernels.gemm import multiplies_bytes
from narrowgauge.kernels.layout import layout_of
from narrowgauge.nn.conversion import REASON
from narrowgauge.nn.explain_kept import kept_rows
from narrowgauge.nn.layer_choice import DTYPES, Place, layer_places, obstacle
from narrowgauge.nn.layer_kinds import LayerKind, nearest_kind, plain_kind, quantised_kind
from narrowgauge.nn.operand import by_blocks, code_text, is_coded, multiplies
from narrowgauge.nn.qat import QATLinear
from narrowgauge.nn.recipe import Recipe
from narrowgauge.nn.saved_bytes import bytes_as_codes, saved_per_token

HIGH_PRECISION = "high precision"
EXACT_INTEGERS = "emulated: exact integer products through float32 BLAS"
IN_PROJECTION = "nn.MultiheadAttention multiplies by this parameter itself"


@dataclass(frozen=True)
class GemmRow:
    """One GEMM: its two operand schemes, and how it runs on the layer's device."""

    operands: str
    runs: str


@dataclass(frozen=True)
class LayerRow:
    """One layer. gemms: fprop, dgrad, wgrad, empty for a layer left alone; reason: why it was.

    weight_bytes: of the weight as it is trained, which quantising leaves in its precision. code_bytes: of the weight
    under `w_fprop`, as a file or an inference layer holds it; None where that slot is empty.
    saved_before, saved_after: bytes per token that the layer keeps for its backward pass, without autocast, as a plain
    layer and now; what does not grow with the tokens is left out. Layers that read one tensor (query, key and value)
    keep it once as plain ones, and codes of it each as quantised ones. None for layers without tokens or with a forward
    of their own.
    same_as: the name under which a layer that is used again was listed; its bytes are not counted again.
    """

    name: str
    shape: tuple[int, int]
    recipe: str
    gemms: dict[str, GemmRow]
    reason: str
    kind: str = "linear"
    weight_bytes: int = 0
    code_bytes: int | None = None
    saved_before: float | None = None
    saved_after: float | None = None
    same_as: str = ""


@dataclass(frozen=True)
class Explanation:
    """Rows in the order of the model. `str()` is a table, `to_dict()` plain data."""

    rows: tuple[LayerRow, ...]

    @property
    def converted(self) -> tuple[LayerRow, ...]:
        """The rows of quantised layers."""
        return tuple(row for row in self.rows if row.gemms)

    @property
    def totals(self) -> dict[str, float]:
        """Sums over the rows, each layer once: weight_bytes; code_bytes, which counts a weight without codes as it is;
        saved_before and saved_after, bytes per token."""
        return {
            "weight_bytes": sum(row.weight_bytes for row in self.rows),
            "code_bytes": sum(row.weight_bytes if row.code_bytes is None else row.code_bytes for row in self.rows),
            "saved_before": sum(row.saved_before or 0.0 for row in self.rows),
            "saved_after": sum(row.saved_after or 0.0 for row in self.rows),
        }

    def to_dict(self) -> dict[str, Any]:
        """{"layers": [...], "converted": count, "left_alone": count, "totals": {...}}."""
        return {
            "layers": [asdict(row) for row in self.rows],
            "converted": len(self.converted),
            "left_alone": len(self.rows) - len(self.converted),
            "totals": self.totals,
        }

    def __str__(self) -> str:
        table = [("layer", "out x in", "kept B/token", "GEMM", "operands", "runs")]
        for row in self.rows:
            head = (row.name, f"{row.shape[0]} x {row.shape[1]}", _kept(row))
            if not row.gemms:
                table.append((*head, "all", HIGH_PRECISION, f"left alone: {row.reason}"))
            for index, (gemm, info) in enumerate(row.gemms.items()):
                table.append((*(head if index == 0 else ("", "", "")), gemm, info.operands, info.runs))
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        lines.append(f"{len(self.converted)} layers quantised, {len(self.rows) - len(self.converted)} left alone")
        lines.append(self._memory())
        return "\n".join(line.rstrip() for line in lines)

    def _memory(self) -> str:
        sums = self.totals
        return (
            f"kept for backward, bytes per token: {sums['saved_before']:,.0f} before, {sums['saved_after']:,.0f} now; "
            f"weights: {_size(sums['weight_bytes'])} in training, {_size(sums['code_bytes'])} as codes"
        )


def _kept(row: LayerRow) -> str:
    if row.same_as:
        return f"as {row.same_as}"
    if row.saved_before is None or row.saved_after is None:
        return ""
    if row.saved_before == row.saved_after:
        return f"{row.saved_after:,.0f}"
    return f"{row.saved_before:,.0f} → {row.saved_after:,.0f}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def explain(model: nn.Module) -> Explanation:
    """How every linear layer at or below `model` runs on its present device, and every other that can be converted, is
    kept as codes or is trained with fake quantisers; a model without any gives an empty table. Embeddings are listed
    once `convert` was asked for them."""
    rows: list[tuple[int, LayerRow]] = []
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    order = {name: index for index, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    for name, told in kept_rows(model):
        gemms = {gemm: GemmRow(*texts) for gemm, texts in told["gemms"].items()}
        rows.append((order[name], LayerRow(name, **{**told, "gemms": gemms}, reason="")))
    for place in layer_places(model):
        kind = nearest_kind(place.layer)
        if isinstance(place.layer, QATLinear):
            continue
        if kind is not None and (kind.layer != "embedding" or _was_asked_for(place.layer)):
            first = _layer_row(place, kind)
            rows.append((order[place.names[0]], first))
            rows += [(order[name], _again(first, name)) for name in place.names[1:]]
    rows += [(order[row.name.rpartition(".")[0]], row) for row in _in_projections(model)]
    return Explanation(tuple(row for _, row in sorted(rows, key=lambda entry: entry[0])))


def _was_asked_for(layer: nn.Module) -> bool:
    return quantised_kind(layer) is not None or REASON in layer.__dict__


def _again(first: LayerRow, name: str) -> LayerRow:
    return LayerRow(name, first.shape, first.recipe, first.gemms, first.reason, first.kind, same_as=first.name)


def _layer_row(place: Place, kind: LayerKind) -> LayerRow:
    layer, name = place.layer, place.names[0]
    shape, held = kind.sizes(layer), _weight_bytes(layer)
    recipe = layer.recipe if quantised_kind(layer) is not None else None
    if not isinstance(recipe, Recipe) or not recipe.quantized:
        reason = _reason(place, recipe)
        saved = _saved(layer, kind, None)
        return LayerRow(name, shape, "", {}, reason, kind.layer, held, None, saved, saved)
    scheme = recipe.slots["w_fprop"]
    return LayerRow(
        name,
        shape,
        recipe.name,
        _products(layer, kind, recipe),
        "",
        kind.layer,
        held,
        None if scheme is None else bytes_as_codes(shape, base_scheme(scheme)),
        _saved(layer, kind, None),
        _saved(layer, kind, recipe),
    )


def _weight_bytes(layer: nn.Module) -> int:
    """Of the weight that is a parameter; a lazy one has no size yet."""
    weight = layer._parameters.get("weight")
    return 0 if weight is None or is_lazy(weight) else weight.numel() * weight.element_size()


def _saved(layer: nn.Module, kind: LayerKind, recipe: Recipe | None) -> float | None:
    weight = layer._parameters.get("weight")
    known = plain_kind(layer) is not None or quantised_kind(layer) is not None
    if not kind.has_tokens or weight is None or weight.dtype not in DTYPES or not known:
        return None
    return saved_per_token(recipe, kind.sizes(layer)[1], weight.dtype, not weight.requires_grad)


def _reason(place: Place, recipe: object) -> str:
    if isinstance(recipe, Recipe):
        return f"recipe {recipe.name!r} quantises nothing"
    recorded = place.layer.__dict__.get(REASON)
    kind = nearest_kind(place.layer)
    asked = f'convert(…, layers=("{kind.layer}",))' if kind is not None and kind.layer != "linear" else "convert"
    return obstacle(place) or recorded or f"not converted: {asked} was not called"


def _in_projections(model: nn.Module) -> Iterator[LayerRow]:
    """The weights that attention of torch holds itself."""
    for name, module in model.named_modules():
        weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else None
        if weight is not None:
            held, path = weight.numel() * weight.element_size(), f"{name}.in_proj_weight" if name else "in_proj_weight"
            yield LayerRow(path, (weight.shape[0], weight.shape[1]), "", {}, IN_PROJECTION, "attention", held)


def _products(layer: Any, kind: LayerKind, recipe: Recipe) -> dict[str, GemmRow]:
    if kind.layer == "embedding":
        return {"lookup": GemmRow(str(recipe.w_fprop), "emulated: quantised and read back; the gradient passes")}
    return {gemm: _gemm_row(layer, recipe, gemm) for gemm in GEMMS}


def _gemm_row(layer: Any, recipe: Recipe, gemm: str) -> GemmRow:
    a, b = (recipe.slots[slot] for slot in GEMMS[gemm])
    operands = f"{a or 'none'} x {b or 'none'}"
    if recipe.accumulate is not None:
        return GemmRow(operands, f"emulated: dequantised, sums of {recipe.accumulate}")
    if a is None and b is None:
        return GemmRow(HIGH_PRECISION, f"{layer.weight.dtype} matmul".removeprefix("torch."))
    if a is None or b is None or not _is_scaled_gemm(a, b):
        return GemmRow(operands, "emulated: dequantised, then a high-precision matmul")
    return GemmRow(operands, _how(layer.weight.device, base_scheme(a), base_scheme(b)))


def _is_scaled_gemm(a: AnyScheme, b: AnyScheme) -> bool:
    """Whether the codes of both are multiplied as they are."""
    return is_coded(a) and is_coded(b) and multiplies(code_text(a, False), code_text(b, False))


def _how(device: torch.device, a: Scheme, b: Scheme) -> str:
    """How the scaled GEMM of two schemes runs on `device`, in words."""
    target = target_of(device)
    operand = operand_type(a.element, b.element, target)
    if operand == "int8" and target == INTERPRETER:
        if scale_columns(a.factor_tile, b.factor_tile):
            return "emulated: decoded to float32 through float32 BLAS"
        return "native: int8 products of the CPU" if multiplies_bytes() else EXACT_INTEGERS
    decoded = "decoded by table" if "table" in (layout_of(a.element).kind, layout_of(b.element).kind) else "decoded"
    if target == INTERPRETER:
        return f"emulated: {decoded} to float32, BLAS"
    if by_blocks(str(a), str(b), device):
        return f"native: block-scaled tensor cores of {target}"
    if operand in ("fp8", "int8"):
        return f"native: {operand} tensor cores of {target}"
    units = "float32 arithmetic" if operand == "fp32" else f"{operand} tensor cores"
    return f"emulated: {decoded} in registers, {units} of {target}"
