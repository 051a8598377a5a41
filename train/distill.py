"""Learning from a teacher's distribution instead of, or beside, the labels (Hinton et al., arXiv:1503.02531).

With ``p`` the teacher's and ``q`` the student's ``softmax(logits / τ)`` at a labelled position::

    forward = τ² · KL(p ‖ q) = τ² · Σ_v p_v (log p_v - log q_v)      covers what the teacher might say
    reverse = τ² · KL(q ‖ p) = τ² · Σ_v q_v (log q_v - log p_v)      avoids what it would not (arXiv:2306.08543)
    loss    = (1 - ce_weight) · divergence + ce_weight · cross-entropy with the labels

The factor ``τ²`` keeps the gradient's size when ``τ`` changes. The teacher gets no gradient.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.decoding import device_of
from narrowgauge.train.method import Method, Metrics
from narrowgauge.train.rl.logprobs import label_mask, logits_logprobs
from narrowgauge.train.rl.surrogate import masked_mean

Direction = Literal["forward", "reverse"]


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    direction: Direction = "forward",
) -> Tensor:
    """The divergence above []: its mean over the positions of ``labels`` [B, T] that are not -100; 0 without any.

    Both logits [B, T, V], computed with in float32. Raises ``ValueError`` for different shapes, a temperature that
    is not above 0, and an unknown direction.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.shape[:-1] != labels.shape:
        raise ValueError(
            "student_logits, teacher_logits, labels: expected [B, T, V], [B, T, V] and [B, T], got"
            f" {tuple(student_logits.shape)}, {tuple(teacher_logits.shape)} and {tuple(labels.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    student = (student_logits.float() / temperature).log_softmax(-1)
    teacher = (teacher_logits.detach().float() / temperature).log_softmax(-1)
    if direction == "forward":
        divergence = (teacher.exp() * (teacher - student)).sum(-1)
    elif direction == "reverse":
        divergence = (student.exp() * (student - teacher)).sum(-1)
    else:
        raise ValueError(f"direction: expected forward or reverse, got {direction!r}")
    return temperature**2 * masked_mean(divergence, label_mask(labels))


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    ce_weight: float = 0.0,
    direction: Direction = "forward",
) -> tuple[Tensor, Metrics]:
    """The loss [] and ``teacher_kl`` and ``cross_entropy``; ``ce_weight`` in [0, 1], other errors as above."""
    if not 0 <= ce_weight <= 1:
        raise ValueError(f"ce_weight: expected a number in [0, 1], got {ce_weight}")
    divergence = kl_divergence(student_logits, teacher_logits, labels, temperature=temperature, direction=direction)
    ce = -masked_mean(logits_logprobs(student_logits, labels), label_mask(labels))
    loss = (1 - ce_weight) * divergence + ce_weight * ce
    return loss, {"teacher_kl": divergence.item(), "cross_entropy": ce.item()}


@dataclass(eq=False)
class Distillation(Method):
    """Trains on :func:`distillation_loss` against ``teacher``: a model with the same vocabulary, which computes in
    eval mode, without gradients, and is moved to the student's device."""

    name: ClassVar[str] = "distillation"

    teacher: nn.Module = field(repr=False)
    temperature: float = 1.0
    ce_weight: float = 0.0
    direction: Direction = "forward"

    def attach(self, model: nn.Module) -> None:
        """Freeze the teacher, where the student is."""
        self.teacher.to(device_of(model)).eval().requires_grad_(False)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss of the student's logits against the teacher's."""
        with torch.no_grad():
            teacher_logits = self.teacher(batch["input_ids"])
        return distillation_loss(
            model(batch["input_ids"]),
            teacher_logits,
            batch["labels"],
            temperature=self.temperature,
            ce_weight=self.ce_weight,
            direction=self.direction,
        )
