import pytest
import torch

from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer
from narrowgauge.train.tradeoff import TradeOff, lowest_first, mean_loss, second_at

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
POINTS = [(4.0, 1.0), (3.0, 2.0), (3.0, 2.5), (1.0, 4.0), (2.0, 5.0)]


def stream() -> BatchStream:
    return BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2)


def trainer_with(*methods: TradeOff) -> Trainer:
    model = Llama(SMALL, seed=0)
    return Trainer(model, stream(), torch.optim.AdamW(model.parameters(), lr=1e-2), methods=methods)


@pytest.mark.parametrize(("level", "expected"), [(4.0, 1.0), (3.5, 1.5), (3.0, 2.0), (2.0, 3.25), (1.0, 4.0)])
def test_the_second_loss_is_read_where_the_first_comes_down_for_the_first_time(level: float, expected: float) -> None:
    assert second_at(POINTS, level) == pytest.approx(expected)


@pytest.mark.parametrize("level", [4.1, 0.9])
def test_a_level_that_is_never_passed_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level: expected"):
        second_at(POINTS, level)


def test_the_lowest_first_loss_can_be_read() -> None:
    assert lowest_first(POINTS) == 1.0
    assert second_at(POINTS, lowest_first(POINTS)) == 4.0


def test_the_mean_counts_every_labelled_token_once_and_gives_the_modes_back() -> None:
    trainer = trainer_with()
    trainer.model.layers[0].eval()
    batches = stream().validation()
    batches[0]["labels"][:, 3:] = -100
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    assert mean_loss(trainer.model, batches) == pytest.approx(mean_loss(trainer.model, [whole]), abs=1e-6)
    assert trainer.model.training
    assert not trainer.model.layers[0].training


def test_a_mean_over_no_token_is_refused() -> None:
    batch = stream().validation()[0]
    batch["labels"].fill_(-100)
    with pytest.raises(ValueError, match="batches: expected at least one labelled token"):
        mean_loss(trainer_with().model, [batch])


def test_it_measures_before_training_and_at_the_chosen_steps_and_training_does_not_notice() -> None:
    batches = stream().validation()
    trace = TradeOff(batches[:1], batches[1:], at={2, 5})
    plain, traced = trainer_with(), trainer_with(trace)
    before = (mean_loss(plain.model, batches[:1]), mean_loss(plain.model, batches[1:]))
    plain.fit(5)
    traced.fit(5)
    assert trace.points[0] == before
    assert len(trace.points) == 3
    assert trace.points[-1] == (mean_loss(plain.model, batches[:1]), mean_loss(plain.model, batches[1:]))


def test_what_was_measured_is_saved() -> None:
    trace = TradeOff([], [], at=())
    trace.load_state_dict({"points": [(2.0, 1.0)]})
    assert trace.state_dict() == {"points": [(2.0, 1.0)]}
