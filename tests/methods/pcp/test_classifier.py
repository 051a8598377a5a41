import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.methods.pcp import Prompt, Text, histogram, predict
from narrowgauge.train import tiny_llama
from narrowgauge.train.tokens import VOCAB_SIZE

SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 32}
PROMPT = Prompt(words=(b"bad", b"top", b"bag"), before=b" It was ", after=b".", max_length=32)
TEXTS = [Text(b"Fine"), Text(b"A longer one, cut to what there is room for"), Text(b"No", b" and more")]


class Likes(nn.Module):
    """Gives the letters of one word more and more probability, whatever the context."""

    def __init__(self, word: bytes) -> None:
        super().__init__()
        self.bias = torch.zeros(VOCAB_SIZE)
        self.bias[list(word)] = 5.0

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.bias.expand(*input_ids.shape, -1)


def test_scores_are_the_log_probabilities_from_the_word_on() -> None:
    model = tiny_llama(3, vocab_size=VOCAB_SIZE, **SIZES)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    labels, probabilities = predict(model, PROMPT, TEXTS, batch_size=2)
    for index, text in enumerate(TEXTS):
        scores = []
        for label in range(3):
            row = torch.tensor(list(PROMPT.fill(text, label)))
            logprobs = F.log_softmax(model(row[None, :-1])[0], -1)[range(len(row) - 1), row[1:]]
            scores.append(logprobs[PROMPT.slot(text) - 1 :].sum())
        expected = torch.stack(scores).softmax(0)
        torch.testing.assert_close(probabilities[index], expected.detach(), rtol=1e-4, atol=1e-6)
        assert labels[index] == expected.argmax()
    assert labels.dtype == torch.int64
    assert probabilities.shape == (3, 3)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_class_is_that_of_the_likeliest_word(label: int) -> None:
    labels, _ = predict(Likes(PROMPT.words[label]), PROMPT, TEXTS)
    assert labels.tolist() == [label] * 3


def test_the_size_of_batches_does_not_matter() -> None:
    model = tiny_llama(0, vocab_size=VOCAB_SIZE, **SIZES)
    one, all_ = (predict(model, PROMPT, TEXTS, batch_size=size)[1] for size in (1, 64))
    torch.testing.assert_close(one, all_)


def test_the_model_keeps_its_mode_and_weights() -> None:
    model = tiny_llama(0, vocab_size=VOCAB_SIZE, **SIZES).train()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    predict(model, PROMPT, TEXTS)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_texts_have_no_labels() -> None:
    labels, probabilities = predict(Likes(b"bad"), PROMPT, [])
    assert labels.shape == (0,)
    assert probabilities.shape == (0, 3)


def test_the_histogram_counts_classes_that_never_come() -> None:
    assert histogram(torch.tensor([1, 1, 0]), PROMPT) == [1, 2, 0]
