import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.train import Llama, LlamaConfig, cross_entropy
from narrowgauge.train.distill import Distillation, distillation_loss, kl_divergence

TINY = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
LABELS = torch.tensor([[1, -100, 4], [-100, 0, 2]])


def logits(seed: int) -> Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed)) * 2


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_divergence_is_the_formula(direction: str, temperature: float) -> None:
    student, teacher = (log_softmax(logits(seed).double().numpy() / temperature) for seed in (0, 1))
    first, second = (teacher, student) if direction == "forward" else (student, teacher)
    each = temperature**2 * (np.exp(first) * (first - second)).sum(-1)
    got = kl_divergence(logits(0), logits(1), LABELS, temperature=temperature, direction=direction)  # type: ignore[arg-type]
    assert got.item() == pytest.approx(each[LABELS.numpy() >= 0].mean(), rel=1e-5)


def test_the_gradient_of_the_forward_divergence_is_the_difference_of_probabilities() -> None:
    student = logits(0).requires_grad_()
    teacher = logits(1).requires_grad_()
    kl_divergence(student, teacher, LABELS, temperature=2.0).backward()
    assert teacher.grad is None
    difference = (student.detach() / 2).softmax(-1) - (teacher.detach() / 2).softmax(-1)
    expected = 2.0 * difference * (LABELS >= 0)[..., None] / 4
    torch.testing.assert_close(student.grad, expected)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    student = logits(0).requires_grad_()
    for direction in ("forward", "reverse"):
        loss = kl_divergence(student, logits(0), LABELS, direction=direction)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss, student)
        assert abs(loss.item()) < 1e-6
        assert gradient.abs().max() < 1e-6


def test_the_mixture_has_cross_entropy_and_divergence_at_its_ends() -> None:
    ce = torch.nn.functional.cross_entropy(logits(0).flatten(0, 1), LABELS.flatten()).item()
    kl = kl_divergence(logits(0), logits(1), LABELS).item()
    for weight in (0.0, 0.3, 1.0):
        loss, metrics = distillation_loss(logits(0), logits(1), LABELS, ce_weight=weight)
        assert loss.item() == pytest.approx((1 - weight) * kl + weight * ce, rel=1e-5)
        assert metrics == {"teacher_kl": pytest.approx(kl), "cross_entropy": pytest.approx(ce)}


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="student_logits, teacher_logits, labels: expected"):
        kl_divergence(logits(0), logits(1)[:, :2], LABELS)
    with pytest.raises(ValueError, match="temperature: expected"):
        kl_divergence(logits(0), logits(1), LABELS, temperature=0.0)
    with pytest.raises(ValueError, match="direction: expected"):
        kl_divergence(logits(0), logits(1), LABELS, direction="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ce_weight: expected"):
        distillation_loss(logits(0), logits(1), LABELS, ce_weight=1.5)


def test_a_run_approaches_its_teacher_and_leaves_it_alone(make_trainer) -> None:
    teacher = Llama(TINY, seed=7)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer = make_trainer(methods=[Distillation(teacher, temperature=2.0, ce_weight=0.1)])
    first = trainer.fit(1)
    last = trainer.fit(30)
    assert last["teacher_kl"] < 0.8 * first["teacher_kl"]
    assert not teacher.training
    torch.testing.assert_close(dict(teacher.state_dict()), before, rtol=0, atol=0)
    batch = trainer.data.validation()[0]
    assert first["cross_entropy"] == pytest.approx(cross_entropy(Llama(TINY, seed=0), batch).item(), rel=0.05)
