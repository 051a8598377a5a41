import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import narrowgauge as ng
from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.encoder import Encoder
from narrowgauge.train.masking import mask_tokens
from narrowgauge.train.tokens import PAD, VOCAB_SIZE

CONFIG = LlamaConfig(
    dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=24, vocab_size=VOCAB_SIZE
)


def encoder(**settings: int | None) -> Encoder:
    """Weights twelve times the initial ones: attention far from uniform."""
    model = Encoder(CONFIG, seed=1, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return model


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("position", [0, 11, 23])
def test_a_changed_token_changes_the_logits_before_and_after_it(position: int) -> None:
    model, before = encoder(), tokens(1, 24)
    after = before.clone()
    after[:, position] = (after[:, position] + 1) % 256
    changed = (model(before) != model(after)).any(-1)
    assert changed.all()


def test_padded_rows_have_the_logits_that_each_has_alone() -> None:
    model, rows = encoder(), [tokens(1, length) for length in (24, 1, 9)]
    ids = torch.full((3, 24), PAD)
    for index, row in enumerate(rows):
        ids[index, : row.shape[1]] = row
    mask = ids != PAD
    logits = model(ids)
    for index, row in enumerate(rows):
        alone = encoder(padding=None)(row)[0]
        torch.testing.assert_close(logits[index, : row.shape[1]], alone, rtol=1e-4, atol=1e-4)
    assert logits.isfinite().all()
    assert torch.equal(encoder(padding=None)(ids, mask), logits)
    assert torch.equal(encoder(padding=None)(ids, mask.long()), logits)
    assert not torch.equal(encoder(padding=None)(ids)[1, 0], logits[1, 0])


def test_a_row_of_padding_alone_is_finite() -> None:
    assert encoder()(torch.full((1, 4), PAD)).isfinite().all()


def test_states_are_what_the_head_reads() -> None:
    model, ids = encoder(), tokens(2, 8)
    states = model.encode(ids)
    assert states.shape == (2, 8, 32)
    assert torch.equal(model.lm_head(states), model(ids))


def test_weights_of_a_causal_model_are_weights_of_the_encoder() -> None:
    causal = Llama(CONFIG, seed=5)
    model = Encoder(CONFIG, seed=6)
    model.load_state_dict(causal.state_dict())
    ids = tokens(1, 8)
    # With one position there is nothing to be causal about.
    torch.testing.assert_close(model(ids[:, :1]), causal(ids[:, :1]))
    assert not torch.equal(model(ids)[:, 0], causal(ids)[:, 0])
    same_seed = Encoder(CONFIG, seed=5).state_dict()
    assert all(torch.equal(value, same_seed[name]) for name, value in causal.state_dict().items())


def test_a_tied_head_is_counted_once() -> None:
    tied = Encoder(dataclasses.replace(CONFIG, tie_embeddings=True))
    assert Encoder(CONFIG).num_parameters() - tied.num_parameters() == VOCAB_SIZE * 32


def test_a_converted_encoder_trains() -> None:
    model = ng.convert(Encoder(CONFIG), "fp8_row")
    model(tokens(2, 24)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_encoder_learns_to_restore_what_the_rest_of_the_row_tells() -> None:
    model = Encoder(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    def batch() -> dict[str, Tensor]:
        return mask_tokens(torch.randint(0, 8, (32, 1), generator=generator).repeat(1, 12), generator)

    losses = []
    for _ in range(60):
        data = batch()
        loss = F.cross_entropy(model(data["input_ids"]).flatten(0, 1), data["labels"].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.5 < 1.5 < losses[5]  # guessing one of eight: ln 8 = 2.08


def test_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"input_ids: expected shape \[batch, at most max_seq_len=24\], got \(2, 25\)"):
        Encoder(CONFIG)(tokens(2, 25))
    with pytest.raises(ValueError, match=r"attention_mask: expected the shape of input_ids \(2, 8\), got \(2, 7\)"):
        Encoder(CONFIG)(tokens(2, 8), torch.ones(2, 7))
