from pathlib import Path

import pytest
import torch

from narrowgauge.methods.adept import ADEPT, block_importance
from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train import METHODS, Batch, BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer
from narrowgauge.train.method import ParameterGroup

SMALL = LlamaConfig(dim=16, num_layers=3, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
CORPUS = ByteCorpus(max_bytes=100_000)


def general(number: int) -> list[Batch]:
    return [CORPUS.batch(1000 + number, 4, 16, 7)]


def rough() -> Llama:
    model = Llama(SMALL, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model


def build(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.5)


def build_log8(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return AdamW(groups, lr=1e-2, weight_decay=0.5, state="log8")


def trainer_with(method: ADEPT, *, low: bool = False) -> Trainer:
    data = BatchStream(CORPUS, batch_size=4, seq_len=16, validation_batches=2)
    model = convert(rough(), "fp8_row") if low else rough()
    return Trainer(model, data, build_log8 if low else build, methods=[method])


def rates(trainer: Trainer) -> dict[str, float]:
    return {group["param_names"][0]: group["lr"] for group in trainer.optimizer.param_groups}


def test_it_is_registered() -> None:
    assert METHODS["adept"] is ADEPT


def test_it_grows_behind_the_least_important_blocks_or_the_most_important() -> None:
    importance = block_importance(rough(), general(0))
    order = sorted(range(3), key=importance.__getitem__)
    for place, expected in (("least", order[:2]), ("most", order[1:])):
        method = ADEPT(blocks=2, place=place, general=general)
        model = trainer_with(method).model
        assert method.chosen == sorted(expected)
        assert method.importance == importance
        assert len(model.layers) == 5
    explicit = ADEPT(layers=(2, 0), general=general)
    trainer_with(explicit)
    assert explicit.chosen == [0, 2]


@pytest.mark.parametrize("low", [False, True])
def test_what_was_there_keeps_its_bits_and_every_trained_tensor_has_a_group(low: bool) -> None:
    trainer = trainer_with(ADEPT(refresh=2, general=general), low=low)
    frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    trained = {name: p.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.fit(5)
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert not any(torch.equal(after[name], value) for name, value in trained.items())
    assert len(trainer.optimizer.param_groups) == len(trained) == 9


def test_rates_are_those_of_the_schedule_until_the_first_refresh_and_between_0_and_twice_as_much_then() -> None:
    method = ADEPT(refresh=3, general=general)
    trainer = trainer_with(method)
    trainer.fit(3)
    assert set(rates(trainer).values()) == {1e-2}
    trainer.fit(4)
    scales = {name: rate / 1e-2 for name, rate in rates(trainer).items()}
    assert scales == pytest.approx(method.lr_scales(4))
    assert min(scales.values()) == 0
    assert max(scales.values()) == pytest.approx(2)
    before = dict(method.lr_scales(4))
    trainer.fit(6)
    assert dict(method.lr_scales(6)) != before


def test_refresh_zero_leaves_all_rates() -> None:
    trainer = trainer_with(ADEPT(refresh=0, general=general))
    trainer.fit(3)
    assert set(rates(trainer).values()) == {1e-2}


def test_ranges_by_kind_let_a_norm_and_a_matrix_stand_still() -> None:
    method = ADEPT(refresh=1, ranges="kinds", general=general)
    trainer_with(method).fit(3)
    still = [name for name, scale in method.lr_scales(3).items() if scale == 0]
    assert sorted("norm" in name for name in still) == [False, True]


@pytest.mark.parametrize("low", [False, True])
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, low: bool) -> None:
    straight, first, second = (trainer_with(ADEPT(refresh=2, general=general), low=low) for _ in range(3))
    straight.fit(5)
    first.fit(3)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(5)
    for p, q in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_run_that_grew_elsewhere_is_refused() -> None:
    method, other = ADEPT(layers=(0,), general=general), ADEPT(layers=(1,), general=general)
    trainer_with(method)
    trainer_with(other)
    with pytest.raises(ValueError, match=r"adept: the saved run grew behind blocks \[0\], this one behind \[1\]"):
        other.load_state_dict(method.state_dict())


def test_the_general_text_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "general.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 100)
    config = LlamaConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=64)
    method = ADEPT(general=str(path))
    method.surgery(Llama(config, seed=0))
    assert len(method.importance) == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"blocks": 0}, "blocks: expected at least 1, got 0"),
        ({"place": "middle"}, "place: expected one of least, most, got 'middle'"),
        ({"refresh": -1}, "refresh: expected a number of steps"),
        ({"ranges": "none"}, "ranges: expected one of all, kinds, got 'none'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ADEPT(**settings)  # type: ignore[arg-type]


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks: expected at most the model's 3, got 4"):
        trainer_with(ADEPT(blocks=4, general=general))
