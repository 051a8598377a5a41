from itertools import pairwise
from pathlib import Path

import pytest
import torch

from narrowgauge.methods.mft import MaskedThought, result_accuracy
from narrowgauge.nn import convert
from narrowgauge.train import METHODS, Batch, Context, Trainer, cross_entropy, tiny_llama
from narrowgauge.train.tasks import Example, TaskSource, batch_of
from narrowgauge.train.tasks.addition import addition, addition_example
from narrowgauge.train.tokens import MASK, PAD, VOCAB_SIZE

SIZES = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 32}
SEQ_LEN = 30


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(rows: int = 16) -> Batch:
    return batch_of(addition(rows, 1, seed=0).train, SEQ_LEN)


def in_answer(batch: Batch) -> torch.Tensor:
    """Where ``input_ids`` has a byte of an answer: from position 6, the question's length, to the padding."""
    return (torch.arange(SEQ_LEN) >= 6) & (batch["input_ids"] != PAD)


def trainer(*methods: MaskedThought, seed: int = 0, recipe: str | None = None, accumulate: int = 1) -> Trainer:
    train, held_out = addition(32, 8, seed=0)
    model = tiny_llama(0, vocab_size=VOCAB_SIZE, **SIZES)
    if recipe is not None:
        model = convert(model, recipe)
    data = TaskSource(train, held_out, batch_size=8, seq_len=SEQ_LEN, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Trainer(model, data, optimizer, methods=methods, seed=seed, grad_accumulation=accumulate)


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["mft"] is MaskedThought


@pytest.mark.parametrize("noise", ["random", "mask"])
def test_labels_and_questions_stay_and_only_the_answer_is_damaged(noise: str) -> None:
    before = batch()
    labels, input_ids = before["labels"].clone(), before["input_ids"].clone()
    after = MaskedThought(rate=1.0, noise=noise).transform(before, 0, generator())
    assert torch.equal(after["labels"], labels)
    assert torch.equal(before["input_ids"], input_ids)
    assert torch.equal(after["input_ids"][~in_answer(before)], input_ids[~in_answer(before)])
    damaged = after["input_ids"][in_answer(before)]
    if noise == "mask":
        assert (damaged == MASK).all()
    else:
        assert damaged.max() < PAD
        assert len(damaged.unique()) > 150  # of 256 tokens, in 320 draws


def test_rate_zero_is_the_identity() -> None:
    assert torch.equal(MaskedThought(rate=0.0).transform(batch(), 5, generator())["input_ids"], batch()["input_ids"])


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (33, 0.4 * 33 / 67), (90, 0.4)])
def test_the_share_that_is_damaged_is_the_rate_of_the_step(step: int, rate: float) -> None:
    method, damaged, count = MaskedThought(rate=0.4, steps=100, noise="mask"), 0, 0
    assert method.rate_at(step) == pytest.approx(rate)
    for seed in range(20):
        after = method.transform(batch(), step, generator(seed))["input_ids"]
        damaged += int((after == MASK).sum())
        count += int(in_answer(batch()).sum())
    assert abs(damaged - rate * count) <= 4 * (count * rate * (1 - rate)) ** 0.5


def test_the_ramp_rises_from_zero_and_is_over_after_two_thirds_of_the_steps() -> None:
    method = MaskedThought(rate=0.3, steps=1000)
    rates = [method.rate_at(step) for step in range(1000)]
    assert rates[0] == 0.0
    assert all(a < b for a, b in pairwise(rates[:662]))
    assert rates[660] < 0.3
    assert rates[661:] == [0.3] * 339
    assert MaskedThought(rate=0.3).rate_at(0) == 0.3


def test_the_same_seed_damages_the_same_and_another_step_something_else() -> None:
    method = MaskedThought(rate=0.4)
    first, again, other = (method.transform(batch(), 0, generator(seed))["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_example_is_damaged_anew_when_it_is_seen_again() -> None:
    seen: list[torch.Tensor] = []

    class Recorder(MaskedThought):
        def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
            seen.append(super().transform(batch, step, rng)["input_ids"])
            return {**batch, "input_ids": seen[-1]}

    train = [addition_example(12, 34)]
    data = TaskSource(train, train, batch_size=1, seq_len=SEQ_LEN, seed=0)
    model = tiny_llama(0, vocab_size=VOCAB_SIZE, **SIZES)
    Trainer(model, data, torch.optim.SGD(model.parameters(), lr=1e-3), methods=[Recorder(rate=0.5)]).fit(3)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_the_ramp_counts_optimizer_steps_and_not_micro_batches() -> None:
    steps: list[int] = []

    class Recorder(MaskedThought):
        def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
            steps.append(step)
            return super().transform(batch, step, rng)

    trainer(Recorder(rate=0.5), accumulate=2).fit(2)
    assert steps == [0, 0, 1, 1]


def test_damage_to_the_last_token_does_not_change_the_loss() -> None:
    """A row that is cut within the answer: its last input is a byte of it, and what would follow has no label."""
    example = Example(b"1+1=", b"ab")
    cut = batch_of([example], len(example.prompt) + len(example.answer))
    cut["labels"][0, 5:] = -100
    other = cut["input_ids"].clone()
    other[0, 5] = MASK
    model = tiny_llama(0, vocab_size=VOCAB_SIZE, **SIZES)
    assert cross_entropy(model, cut).item() == cross_entropy(model, {**cut, "input_ids": other}).item()
    assert MaskedThought(rate=1.0, noise="mask").transform(cut, 0, generator())["input_ids"][0, 5] == MASK


def test_the_controls_damage_the_question_or_everything() -> None:
    before = batch()
    answer, content = in_answer(before), before["input_ids"] != PAD
    for where, places in (("question", content & ~answer), ("all", content)):
        after = MaskedThought(rate=1.0, noise="mask", where=where).transform(before, 0, generator())
        assert torch.equal(after["input_ids"] == MASK, places)


def test_the_mask_token_starts_as_the_mean_of_the_others() -> None:
    model = tiny_llama(0, vocab_size=VOCAB_SIZE, **SIZES)
    before = model.embed_tokens.weight.detach().clone()
    others = torch.cat([before[:MASK], before[MASK + 1 :]])
    MaskedThought(noise="mask", fresh_mask=False).surgery(model)
    assert torch.equal(model.embed_tokens.weight, before)
    MaskedThought(noise="mask").surgery(model)
    torch.testing.assert_close(model.embed_tokens.weight[MASK], others.mean(0))
    assert torch.equal(model.embed_tokens.weight[:MASK], before[:MASK])


def test_evaluation_is_not_damaged() -> None:
    plain, masked = trainer(), trainer(MaskedThought(rate=1.0))
    assert plain.evaluate()["val_loss"] == masked.evaluate()["val_loss"]


@pytest.mark.parametrize("recipe", [None, "fp8_row"])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path, recipe: str | None) -> None:
    straight, first, second = (trainer(MaskedThought(rate=0.3, steps=6, noise="mask"), recipe=recipe) for _ in range(3))
    straight.fit(6)
    first.fit(3)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(6)
    pairs = zip(straight.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"rate": -0.1}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"steps": -1}, "steps"),
        ({"noise": "blank"}, "noise"),
        ({"where": "labels"}, "where"),
        ({"tokens": 0}, "tokens"),
        ({"mask_token": -1}, "mask_token"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        MaskedThought(**settings)  # type: ignore[arg-type]


def test_a_model_without_the_mask_token_is_refused() -> None:
    with pytest.raises(ValueError, match="token 257; this one has 256 tokens"):
        MaskedThought(noise="mask").surgery(tiny_llama(0, **SIZES))


def test_result_digits_are_those_behind_the_sign() -> None:
    """A model that always says 5 has two of the three digits of 055, and none of 022."""

    class Five(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full_like(input_ids, ord("5")), VOCAB_SIZE).float()

    assert result_accuracy(Five(), [addition_example(4, 51), addition_example(11, 11)]) == pytest.approx(2 / 6)


def test_the_experiment_gives_the_numbers_of_its_claims() -> None:
    experiment = MaskedThought.experiment()
    values = experiment.run(Context(seed=0, scale=0.003))
    for claim in experiment.claims:
        assert 0 <= values[claim.treatment] <= 1
        assert isinstance(claim.control, str)
        assert 0 <= values[claim.control] <= 1
