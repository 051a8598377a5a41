import dataclasses

import pytest
import torch
import torch.nn.functional as F

import narrowgauge as ng
from narrowgauge.train import LlamaConfig
from narrowgauge.train.seq2seq import CrossBlock, EncoderDecoder, teacher_forcing
from narrowgauge.train.tokens import BOS, EOS, PAD, VOCAB_SIZE

CONFIG = LlamaConfig(
    dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=24, vocab_size=VOCAB_SIZE
)
SOURCES = [[5, 6, 7], list(range(100, 117)), [9], [44, 200, 3, 8, 1, 1]]


def model() -> EncoderDecoder:
    """Weights twelve times the initial ones: outputs that depend on everything."""
    built = EncoderDecoder(CONFIG, seed=1)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return built


def test_a_target_token_changes_no_earlier_logit_and_a_source_token_changes_all() -> None:
    generator = torch.Generator().manual_seed(0)
    target, source = (torch.randint(0, 256, (1, length), generator=generator) for length in (12, 9))
    other_target, other_source = target.clone(), source.clone()
    other_target[0, 7] += 1
    other_source[0, 8] = (other_source[0, 8] + 1) % 256
    before = model()(target, source)
    after = model()(other_target, source)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before != after).any(-1)[0, 7:].all()
    assert (before != model()(target, other_source)).any(-1).all()


def test_padding_of_source_and_target_changes_no_logit() -> None:
    built = model()
    targets = [[1, 2], [3], [4, 5, 6, 7], [8]]
    batch = teacher_forcing(SOURCES, targets)
    logits = built(*(batch[name] for name in built.inputs))
    for index, (source, target) in enumerate(zip(SOURCES, targets, strict=True)):
        alone = built(torch.tensor([[BOS, *target]]), torch.tensor([source]))[0]
        torch.testing.assert_close(logits[index, : len(target) + 1], alone, rtol=1e-4, atol=1e-4)


def test_a_batch_of_pairs_is_shifted_and_padded() -> None:
    batch = teacher_forcing([[1], [2, 3]], [[4, 5], []])
    assert batch["source_ids"].tolist() == [[1, PAD], [2, 3]]
    assert batch["input_ids"].tolist() == [[BOS, 4, 5], [BOS, PAD, PAD]]
    assert batch["labels"].tolist() == [[4, 5, EOS], [EOS, -100, -100]]


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_greedy_targets_are_the_argmax_for_each_source_alone(use_cache: bool) -> None:
    built = model()
    expected = []
    for source in SOURCES:
        ids = [BOS]
        for _ in range(12):
            ids.append(int(built(torch.tensor([ids]), torch.tensor([source]))[0, -1].argmax()))
        expected.append(ids[1:])
    assert len({tuple(row) for row in expected}) == 4
    assert built.generate(SOURCES, max_new_tokens=12, eos=None, use_cache=use_cache) == expected


def test_generation_is_in_eval_mode_and_gives_the_mode_back() -> None:
    built = model().train()
    expected = model().generate(SOURCES, max_new_tokens=4, eos=None)
    built.encoder.norm = torch.nn.Sequential(built.encoder.norm, torch.nn.Dropout(0.5))  # type: ignore[assignment]
    assert built.generate(SOURCES, max_new_tokens=4, eos=None) == expected
    assert all(module.training for module in built.modules())


def test_targets_may_be_sampled() -> None:
    drawn = [
        model().generate(
            SOURCES, max_new_tokens=4, temperature=1.0, eos=None, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def enciphered(source: list[int]) -> list[int]:
    return [100 + (3 * token) % 8 for token in source]


def test_it_learns_a_cipher() -> None:
    built = EncoderDecoder(dataclasses.replace(CONFIG, num_layers=1))
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        sources = torch.randint(0, 8, (32, 4), generator=generator).tolist()
        batch = teacher_forcing(sources, [enciphered(source) for source in sources])
        logits = built(*(batch[name] for name in built.inputs))
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sources = [[0, 1, 2, 3], [7, 3, 5, 5], [2, 6, 0, 4], [1, 1, 3, 1]]
    assert built.generate(sources, max_new_tokens=9) == [enciphered(source) for source in sources]


def test_one_seed_gives_the_same_weights_and_embeddings_are_shared() -> None:
    first, again = EncoderDecoder(CONFIG, seed=3), EncoderDecoder(CONFIG, seed=3)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))
    assert first.decoder.embed_tokens is first.encoder.embed_tokens
    tied = EncoderDecoder(dataclasses.replace(CONFIG, tie_embeddings=True))
    assert tied.lm_head.weight is tied.encoder.embed_tokens.weight
    assert first.num_parameters() - tied.num_parameters() == VOCAB_SIZE * 32


def test_every_weight_gets_a_gradient_in_a_converted_model_too() -> None:
    built = ng.convert(model(), "fp8_row")
    batch = teacher_forcing(SOURCES, [[1, 2], [3], [4, 5, 6, 7], [8]])
    built(batch["input_ids"], batch["source_ids"]).square().mean().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())
    assert [len(row) for row in built.generate(SOURCES, max_new_tokens=3, eos=None)] == [3] * 4


def test_what_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="sources: source 1 is empty"):
        model().generate([[1], []], max_new_tokens=1)
    with pytest.raises(ValueError, match="bos: expected a token below vocab_size=256, got 258"):
        EncoderDecoder(dataclasses.replace(CONFIG, vocab_size=256)).generate([[1]], max_new_tokens=1)
    with pytest.raises(ValueError, match="targets: expected one for each of 1 sources, at least one, got 2"):
        teacher_forcing([[1]], [[1], [2]])
    with pytest.raises(ValueError, match=r"input_ids: expected shape \[batch, at most max_seq_len=24\], got \(1, 25\)"):
        model()(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 25, dtype=torch.int64))
    with pytest.raises(ValueError, match="source: expected keys and values of the source, got None"):
        CrossBlock(CONFIG)(torch.zeros(1, 1, 32), torch.ones(1, 8), torch.zeros(1, 8))
    assert model().generate([], max_new_tokens=1) == []
