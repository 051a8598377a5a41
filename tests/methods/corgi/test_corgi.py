from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from narrowgauge.methods.corgi import ORDERS, Corgi
from narrowgauge.train import METHODS, BatchStream, ByteCorpus, Context, Trainer, tiny_llama
from narrowgauge.train.tasks import Example, TaskSource
from narrowgauge.train.tasks.subjects import subjects
from narrowgauge.train.tokens import VOCAB_SIZE, decode

SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 32}
TRAIN, HELD_OUT = subjects(3, 1, seed=0)


def source(**changes: object) -> TaskSource:
    settings = {"batch_size": 6, "seq_len": 21, "seed": 5, **changes}
    return TaskSource(TRAIN, HELD_OUT, **settings)  # type: ignore[arg-type]


def prompts(data: object, batches: int) -> list[str]:
    found = []
    for _ in range(batches):
        rows = next(data)["input_ids"]  # type: ignore[call-overload]
        found += [decode(row).partition("=")[0] for row in rows]
    return found


def trainer(method: Corgi) -> Trainer:
    model = tiny_llama(0, vocab_size=VOCAB_SIZE, **SIZES)
    return Trainer(model, source(), torch.optim.AdamW(model.parameters(), lr=1e-2), methods=[method])


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["corgi"] is Corgi


def test_batches_follow_the_curriculum_in_every_epoch() -> None:
    """54 examples in batches of 6: nothing downstream shuffles them, and each batch has all six subjects."""
    data = Corgi().source(source())
    first, second = prompts(data, 9), prompts(data, 9)
    assert first == second
    assert [len(prompt) - 2 for prompt in first] == [2] * 18 + [4] * 18 + [6] * 18
    assert all({prompt[0] for prompt in first[start : start + 6]} == set("rncsde") for start in range(0, 54, 6))
    assert sorted(first) == sorted(example.prompt.decode()[:-1] for example in TRAIN)


def test_random_is_another_permutation_each_epoch_and_repeats_with_its_seed() -> None:
    runs = [prompts(Corgi(order="random", seed=seed).source(source()), 18) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][:54] != runs[0][54:]
    assert sorted(runs[0][:54]) == sorted(runs[0][54:])


@pytest.mark.parametrize("order", ORDERS)
def test_the_given_source_is_left_alone_and_validation_is_the_same(order: str) -> None:
    data, untouched = source(), source()
    assert data.fingerprint == untouched.fingerprint
    ordered = Corgi(order=order).source(data)
    next(ordered)
    assert data.state_dict() == untouched.state_dict()
    assert prompts(data, 9) == prompts(untouched, 9)
    for ours, theirs in zip(ordered.validation(), untouched.validation(), strict=True):
        assert torch.equal(ours["input_ids"], theirs["input_ids"])


def test_the_shares_of_two_ranks_are_the_batch_of_one() -> None:
    whole = next(Corgi().source(source()))
    parts = [next(Corgi().source(source(rank=rank, world_size=2))) for rank in (0, 1)]
    assert torch.equal(whole["input_ids"], torch.cat([part["input_ids"] for part in parts]))


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_resumed_in_mid_permutation_is_the_same_to_the_bit(tmp_path: Path, order: str) -> None:
    straight, first, second = (trainer(Corgi(order=order)) for _ in range(3))
    straight.fit(7)
    first.fit(4)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(7)
    pairs = zip(straight.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_position_in_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="data: the saved position belongs to examples="):
        Corgi().source(source()).load_state_dict(Corgi(order="blocking").source(source()).state_dict())


def test_the_difficulty_may_be_made_of_several_attributes() -> None:
    @dataclass(frozen=True)
    class Lesson(Example):
        subject: str
        bloom: int
        stage: int

    lessons = [
        Lesson(b"%d" % i, b"x", "maths", bloom, stage) for i, (bloom, stage) in enumerate([(2, 1), (1, 2), (1, 1)])
    ]
    data = TaskSource(lessons, lessons, batch_size=1, seq_len=4, seed=0)
    assert [example.prompt for example in Corgi(key="bloom+stage").source(data).train] == [b"2", b"1", b"0"]
    assert [example.prompt for example in Corgi(key="stage").source(data).train] == [b"0", b"2", b"1"]
    assert [example.prompt for example in Corgi(key="bloom", reverse=True).source(data).train] == [b"0", b"1", b"2"]


def test_sources_without_subjects_or_levels_are_refused() -> None:
    corpus = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=2, seq_len=8)
    with pytest.raises(ValueError, match="expected an ExampleStream, got BatchStream"):
        Corgi().source(corpus)
    plain = TaskSource([Example(b"a", b"b")], [Example(b"a", b"b")], batch_size=1, seq_len=4, seed=0)
    with pytest.raises(ValueError, match="not all have 'subject'"):
        Corgi().source(plain)
    with pytest.raises(ValueError, match="examples with subject and bloom; not all have 'bloom'"):
        Corgi(key="bloom").source(source())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "sorted"}, "order: expected one of interleaving,"),
        ({"order": "blocking", "proportional": True}, "proportional: expected with order='interleaving'"),
        ({"rounds": 0}, "rounds: expected at least 1"),
        ({"epochs": 0}, "epochs: expected at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corgi(**settings)  # type: ignore[arg-type]


def test_the_experiment_gives_the_numbers_of_its_claims() -> None:
    experiment = Corgi.experiment()
    values = experiment.run(Context(seed=0, scale=0.003))
    for claim in experiment.claims:
        assert isinstance(claim.control, str)
        assert 0 <= values[claim.treatment] <= 1
        assert 0 <= values[claim.control] <= 1
