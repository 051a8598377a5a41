import pytest
import torch

from narrowgauge.train import Llama, LlamaConfig, cross_entropy
from narrowgauge.train.tasks import Example, accuracy, batch_of
from narrowgauge.train.tokens import VOCAB_SIZE

EXAMPLES = [Example(b"a", b"xy"), Example(b"bb", b"z"), Example(b"ccc", b""), Example(b"d", b"wvu")]
CONFIG = LlamaConfig(
    vocab_size=VOCAB_SIZE, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16
)


@pytest.fixture(scope="module")
def knowing() -> Llama:
    """A model that knows four answers by heart."""
    model = Llama(CONFIG, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    batch = batch_of(EXAMPLES, seq_len=8)
    for _ in range(60):
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    return model


def test_what_is_known_is_right(knowing: Llama) -> None:
    assert accuracy(knowing, EXAMPLES, max_new_tokens=4) == 1.0
    assert accuracy(knowing, EXAMPLES, max_new_tokens=4, batch_size=3) == 1.0


def test_only_exact_answers_count(knowing: Llama) -> None:
    changed = [Example(b"a", b"xz"), Example(b"bb", b"zz"), Example(b"ccc", b""), Example(b"d", b"wv")]
    assert accuracy(knowing, changed, max_new_tokens=4) == 0.25


def test_an_untrained_model_is_wrong() -> None:
    assert accuracy(Llama(CONFIG, seed=0), EXAMPLES, max_new_tokens=4) == 0.0


def test_answers_that_cannot_be_written_are_refused(knowing: Llama) -> None:
    with pytest.raises(ValueError, match="max_new_tokens"):
        accuracy(knowing, EXAMPLES, max_new_tokens=2)
    with pytest.raises(ValueError, match="examples"):
        accuracy(knowing, [], max_new_tokens=2)
