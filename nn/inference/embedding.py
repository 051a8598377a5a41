"""`InferenceEmbedding`: an embedding whose table is frozen codes; rows are decoded as they are looked up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.nn.embedding import QuantEmbedding
from narrowgauge.nn.inference.parts import Parts, picked_rows, whole
from narrowgauge.nn.inference.stored import StoredWeight, as_dtype, checked_scheme
from narrowgauge.nn.layer import mapped_weight


def _rows(
    index: Tensor, codes: Tensor, scale: Tensor, outer: Tensor | None, zero_point: Tensor | None, second: Tensor | None,
    mean: Tensor | None, scheme: str, cols: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    parts, wide = (
        Parts(codes, scale, outer, zero_point, second, mean),
        torch.float32 if dtype == torch.float64 else dtype,
    )
    if parse(scheme).tile[0] == 1:
        return whole(picked_rows(parts, index), scheme, cols, wide).to(dtype)
    return torch.index_select(whole(parts, scheme, cols, wide), 0, index).to(dtype)


# One opaque call for compilers, which cannot see through the tables of formats.
LIBRARY.define(
    "stored_rows(Tensor index, Tensor codes, Tensor scale, Tensor? outer, Tensor? zero_point, Tensor? second, "
    "Tensor? mean, str scheme, int cols, ScalarType dtype) -> Tensor"
)
LIBRARY.impl("stored_rows", _rows, "CompositeExplicitAutograd")


@torch.library.register_fake("narrowgauge::stored_rows", lib=LIBRARY)
def _fake_rows(index: Tensor, codes: Tensor, *rest: Any) -> Tensor:
    *_, cols, dtype = rest
    return codes.new_empty((index.shape[0], cols), dtype=dtype)


class InferenceEmbedding(StoredWeight):
    """Indices [...] → [..., embedding_dim] in `dtype`: the bits of looking up `dequantize()`.

    scheme: of the table [num_embeddings, embedding_dim]. Where rows have scales of their own (row, 1xG, MX, NVFP4),
    only the rows that are looked up are decoded; else the whole table is, in every call. Nothing has a gradient.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        weight: str = "int8/row",
        *,
        padding_idx: int | None = None,
        zero_point: bool = False,
        double_scale: bool = False,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            num_embeddings, embedding_dim, weight, zero_point=zero_point, double_scale=double_scale,
            dtype=as_dtype(dtype), device=device,
        )  # fmt: skip
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx

    @classmethod
    def from_embedding(
        cls, embedding: nn.Embedding, weight: str | Scheme = "int8/row", *, double_scale: bool = False
    ) -> InferenceEmbedding:
        """The embedding with its table quantised. ValueError for `max_norm`, which changes rows as they are read, and
        for a table on the meta device; TypeError for other layers."""
        _check_table(embedding)
        new = cls._like(embedding, str(checked_scheme(weight, "weight")), double_scale=double_scale)
        return new.quantized_from(embedding.weight).train(embedding.training)

    @classmethod
    def from_quant_embedding(cls, layer: QuantEmbedding, weight: str | Scheme | None = None) -> InferenceEmbedding:
        """A QuantEmbedding as its forward pass runs it, bit for bit. weight: another scheme in the place of its own.

        ValueError for `max_norm`, and for a slot that is no plain scheme of at most 8 bits.
        """
        _check_table(layer)
        slot = layer.recipe.w_fprop if weight is None else parse(weight)
        if not isinstance(slot, Scheme):
            raise ValueError(f"layer: w_fprop={slot} of recipe {layer.recipe.name!r} leaves no codes of a table")
        with torch.no_grad():
            table = mapped_weight(layer, layer.weight)
        new = cls._like(layer, str(slot), double_scale=False)
        return new.quantized_from(table).train(layer.training)

    @classmethod
    def _like(cls, embedding: nn.Embedding, scheme: str, *, double_scale: bool) -> InferenceEmbedding:
        """Of the sizes of `embedding`, on the meta device."""
        return cls(
            embedding.num_embeddings, embedding.embedding_dim, scheme, padding_idx=embedding.padding_idx,
            double_scale=double_scale, dtype=embedding.weight.dtype, device="meta",
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """TypeError unless the indices are integers; IndexError for those outside of the table."""
        if input.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"input: expected int64 or int32 indices, got {input.dtype}")
        rows: Tensor = torch.ops.narrowgauge.stored_rows(
            input.reshape(-1), *self.parts, self.scheme, self.cols, self.dtype
        )
        return rows.view(*input.shape, self.embedding_dim)

    @property
    def weight(self) -> Tensor:
        """The decoded table: a new tensor at every access."""
        return self.dequantize()

    @property
    def quantization(self) -> dict[str, Any]:
        """What the layer is: the arguments of `InferenceEmbedding` for its like."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
            **self._described(),
        }

    def extra_repr(self) -> str:
        """Sizes and scheme."""
        return f"{self.num_embeddings}, {self.embedding_dim}, weight={self.scheme}"


def _check_table(embedding: nn.Module) -> None:
    if not isinstance(embedding, nn.Embedding):
        more = ", which holds codes already" if isinstance(embedding, StoredWeight) else ""
        raise TypeError(f"embedding: expected an nn.Embedding, got {type(embedding).__name__}{more}")
    if embedding.max_norm is not None:
        raise ValueError(f"embedding: max_norm={embedding.max_norm} changes the table at every look-up")
