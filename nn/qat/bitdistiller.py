"""BitDistiller: weights of 2 or 3 bits in groups, asymmetric clipping, and a confidence-aware distillation loss.

    INT2, INT3   s = (hi − lo) / (2^b − 1),  z = RN(−lo / s),  ŵ = s · (clamp(RN(w / s) + z, 0, 2^b − 1) − z)
    NF3          s = (hi − lo) / 2,  z = −(hi + lo) / (hi − lo),  ŵ = s · (nf3(w / s + z) − z)
    [lo, hi]     per group of 128, searched once (`ranges.py`), then fixed
    backward     1 where lo ≤ w ≤ hi (INT: where the integer does not clamp), 0 outside

The released code clips the weights to [lo, hi] once, those of queries and keys excepted, takes the range anew from the
weights of each step, and keeps z in 0 … 2^b − 1. Its search compares outputs of the layer; here h (`ranges.py`) stands
for the inputs. The published NF3 scales the two signs separately; here one affine map takes [lo, hi] to [−1, 1], so
that a group has one scale and one zero point.

    CAKLD = γ · KL(student ‖ teacher) + (1 − γ) · KL(teacher ‖ student),
    γ = mean probability that the teacher gives the tokens of the data

NF3: `narrowgauge.formats.normal_float`.
Du et al., arXiv 2402.10631, sections 3.2 and 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.nn.qat.checks import check_bits, check_choice
from narrowgauge.nn.qat.groups import Granularity, check_granularity
from narrowgauge.nn.qat.quantizer import Scaled, WeightQuantizer
from narrowgauge.nn.qat.ranges import search_range
from narrowgauge.nn.straight_through import high_precision

GRIDS = ("int", "nf")


class BitDistillerWeight(WeightQuantizer):
    """Weights of 2 or 3 bits. grid: int (asymmetric integers) or nf (nf3); group: weights that share a range.

    `importance` ([K], mean square of each input feature) may be set before `bind` to weigh the search.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int = 3, grid: str = "int", group: Granularity = 128) -> None:
        super().__init__()
        check_choice("grid", grid, GRIDS)
        check_bits("bits", bits, (2, 3) if grid == "int" else (3,))
        self.bits, self.kind = bits, grid
        self.granularity = check_granularity(group)
        self.element = f"uint{bits}" if grid == "int" else "nf3"
        self.importance: Tensor | None = None

    def _bind(self, weight: Tensor) -> None:
        tiles = self.groups(weight).shape[:2]
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros(tiles, device=weight.device, dtype=high_precision(weight).dtype))

    @torch.no_grad()
    def reset_(self, weight: Tensor) -> None:
        tiles = self.groups(high_precision(weight))

        def quantized(low: Tensor, high: Tensor) -> Tensor:
            scale, zero = self._affine(low, high)
            return (self.grid.nearest(self._shifted(tiles, scale, zero)) - zero) * scale

        importance = self.importance
        if importance is not None:
            importance = self.groups(importance.to(tiles).expand(weight.shape))
        low, high = search_range(tiles, quantized, importance)
        self.low.copy_(low.squeeze(2))
        self.high.copy_(high.squeeze(2))

    def _affine(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero point) of a range."""
        width = (high - low).clamp_min(torch.finfo(low.dtype).tiny * 2.0**16)
        if self.kind == "int":
            scale = width / (2**self.bits - 1)
            return scale, (-low / scale).round()
        return width / 2, -(high + low) / width

    def _shifted(self, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        ratio = weight * (1.0 / scale)
        return (ratio.round() if self.kind == "int" else ratio) + zero

    def scaled(self, weight: Tensor) -> Scaled:
        scale, zero = self._affine(self.low.to(weight.dtype), self.high.to(weight.dtype))
        y = self._shifted(self.groups(weight), scale.unsqueeze(2), zero.unsqueeze(2))
        return Scaled(y.reshape(weight.shape), scale, zero)

    def gradient_multiplier(self, weight: Tensor, scaled: Scaled, values: Tensor) -> Tensor | None:
        if self.kind == "int":
            return (scaled.y >= 0) & (scaled.y <= 2**self.bits - 1)
        return scaled.y.abs() <= 1

    @torch.no_grad()
    def border_distance(self, weight: Tensor) -> Tensor:
        wide = high_precision(weight)
        scale, zero = self._affine(self.low.to(wide.dtype), self.high.to(wide.dtype))
        y = self.groups(wide) / scale.unsqueeze(2) + zero.unsqueeze(2)
        return self.grid.border_distance(y.reshape(wide.shape))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, grid={self.kind}, group={self.granularity}"


def teacher_confidence(teacher_logits: Tensor, labels: Tensor, ignore: int = -100) -> Tensor:
    """γ: mean probability that the teacher gives the labels. logits [..., vocabulary], labels [...]; positions with the
    label `ignore` do not count. ValueError when none counts."""
    kept = labels != ignore
    if not bool(kept.any()):
        raise ValueError(f"labels: every position has the label {ignore}, which does not count")
    probabilities = torch.softmax(teacher_logits.float(), -1)[kept]
    return probabilities.gather(-1, labels[kept].unsqueeze(-1)).mean()


def cakld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    confidence: Tensor | float,
    labels: Tensor | None = None,
    ignore: int = -100,
) -> Tensor:
    """γ · KL(student ‖ teacher) + (1 − γ) · KL(teacher ‖ student), the mean over positions.

    logits: [..., vocabulary]. confidence: γ in [0, 1], `teacher_confidence` of the data. labels: [...], to leave out
    the positions with the label `ignore`. ValueError for shapes that differ and γ outside [0, 1].
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits: expected the student's shape {tuple(student_logits.shape)}, "
            f"got {tuple(teacher_logits.shape)}"
        )
    if not 0 <= float(confidence) <= 1:
        raise ValueError(f"confidence: got {float(confidence)}, accepted: 0 to 1")
    student = torch.log_softmax(student_logits.float(), -1)
    teacher = torch.log_softmax(teacher_logits.detach().float(), -1)
    difference = student - teacher
    reverse = (student.exp() * difference).sum(-1)
    forward = -(teacher.exp() * difference).sum(-1)
    loss = confidence * reverse + (1 - confidence) * forward
    return loss.mean() if labels is None else loss[labels != ignore].mean()
