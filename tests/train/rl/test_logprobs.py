import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import Llama, LlamaConfig, cross_entropy
from narrowgauge.train.rl.logprobs import completion_batch, logits_logprobs, sequence_logprobs, token_logprobs

TINY = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


class Fixed(nn.Module):
    """Gives the same logits whatever it is asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.logits


def test_a_label_gets_its_log_softmax_and_none_gets_0() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0], [5.0, -5.0]]])
    labels = torch.tensor([[1, 0, -100]])
    logprobs = token_logprobs(Fixed(logits), torch.zeros(1, 3, dtype=torch.int64), labels)
    assert logprobs[0].tolist() == pytest.approx([-math.log(2), math.log(0.75), 0.0], rel=1e-6)
    total = sequence_logprobs(Fixed(logits), torch.zeros(1, 3, dtype=torch.int64), labels)
    assert total.tolist() == pytest.approx([-math.log(2) + math.log(0.75)], rel=1e-6)


def test_it_agrees_with_numpy_in_float64() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 20, (3, 5, 11))
    labels = rng.integers(0, 11, (3, 5))
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(expected, labels[..., None], -1)[..., 0]
    got = logits_logprobs(torch.from_numpy(logits).float(), torch.from_numpy(labels))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([[0, 1, 2, -100]])
    got = logits_logprobs(logits, labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, logits_logprobs(logits.float(), labels), rtol=0, atol=0)


def test_it_is_the_trainers_cross_entropy_on_a_model() -> None:
    model = Llama(TINY, seed=0)
    ids = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 1)
    labels[0, :4] = -100
    mean = token_logprobs(model, ids, labels).sum() / (labels != -100).sum()
    assert -mean.item() == pytest.approx(cross_entropy(model, {"input_ids": ids, "labels": labels}).item(), rel=1e-6)


def test_no_gradient_reaches_unlabelled_positions() -> None:
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits_logprobs(logits, torch.tensor([[2, -100, 1]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].abs().max() == 0
    assert logits.grad[0, 0].abs().min() > 0


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="labels: expected"):
        logits_logprobs(torch.zeros(1, 3, 4), torch.zeros(1, 2, dtype=torch.int64))


def test_prompt_and_what_follows_the_end_have_no_label() -> None:
    tokens = torch.tensor([[5, 9, 7, 9, 1, 9], [1, 2, 3, 4, 5, 6]])
    batch = completion_batch(tokens, torch.tensor([2, 4]), eos=9)  # the 9 within the prompt ends nothing
    assert batch["input_ids"].tolist() == [[5, 9, 7, 9, 1], [1, 2, 3, 4, 5]]
    assert batch["labels"].tolist() == [[-100, 7, 9, -100, -100], [-100, -100, -100, 5, 6]]
    assert completion_batch(tokens, torch.tensor([2, 4]), eos=None)["labels"][0].tolist() == [-100, 7, 9, 1, 9]


@pytest.mark.parametrize("lengths", [[0, 1], [1, 7], [1]])
def test_prompt_lengths_outside_the_row_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="prompt_lengths: expected"):
        completion_batch(torch.zeros(2, 6, dtype=torch.int64), torch.tensor(lengths), eos=9)
