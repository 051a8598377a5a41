from pathlib import Path

import pytest
import torch

from narrowgauge.methods.backslash import BackSlash
from narrowgauge.nn import RECIPES, convert
from narrowgauge.optim import AdamW
from narrowgauge.priors import BackSlash as BackSlashOptimizer
from narrowgauge.priors import scaled_strength
from narrowgauge.train import METHODS, BatchStream, ByteCorpus, Context, Llama, LlamaConfig, Trainer, judge

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def trainer_with(*methods: BackSlash, state: str | None = None, wrap: float | None = None) -> Trainer:
    model = Llama(SMALL, seed=0)
    data = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2)
    if state is None:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    else:
        optimizer = AdamW(model.parameters(), lr=1e-2, state=state)
    if wrap is not None:
        optimizer = BackSlashOptimizer(optimizer, strength=wrap)
    return Trainer(model, data, optimizer, methods=methods)


def assert_same(a: Trainer, b: Trainer) -> None:
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["backslash"] is BackSlash


@pytest.mark.parametrize("state", [None, "log8"])
def test_the_method_and_the_optimizer_train_alike(state: str | None) -> None:
    method, wrapped = trainer_with(BackSlash(strength=5.0), state=state), trainer_with(state=state, wrap=5.0)
    method.fit(4)
    wrapped.fit(4)
    assert_same(method, wrapped)


def test_no_strength_is_noticed_by_nobody() -> None:
    plain, method = trainer_with(), trainer_with(BackSlash(strength=0.0))
    plain.fit(3)
    method.fit(3)
    assert_same(plain, method)


def test_in_loss_the_gradient_is_clipped_together_with_the_tasks() -> None:
    trainer = trainer_with(BackSlash(strength=1e6, mode="in_loss"))
    metrics = trainer.fit(1)
    assert metrics["grad_norm"] > 100


def test_the_rate_is_reported_and_falls() -> None:
    plain, method = trainer_with(BackSlash(strength=0.0)), trainer_with(BackSlash(strength=20.0))
    before = plain.evaluate()
    assert before["backslash_shape"] < 1  # of the pooled weights: gains of one among small matrices
    plain.fit(20)
    method.fit(20)
    ours, theirs = method.evaluate(), plain.evaluate()
    for name in ("backslash_entropy_bits", "backslash_exp_golomb_bits"):
        assert ours[name] < theirs[name] - 0.3
    assert ours["backslash_zeros"] > theirs["backslash_zeros"]


def test_the_default_strength_is_the_published_one_per_parameter() -> None:
    method = BackSlash()
    trainer = trainer_with(method)
    assert method.term is not None
    assert method.term.current_strength == pytest.approx(scaled_strength(method.term.count))
    assert method.term.count == sum(p.numel() for p in trainer.model.parameters())


def test_the_phase_ends_with_pruning_and_the_zeros_stay() -> None:
    method = BackSlash(strength=5.0, until=3, prune=0.5)
    trainer = trainer_with(method)
    trainer.fit(3)
    assert method.masks is None
    trainer.fit(6)
    assert method.masks is not None
    assert method.masks.sparsity == pytest.approx(0.5, abs=0.01)
    assert method.term is not None
    assert method.term.current_strength == 0.0
    for name, kept in method.masks.kept.items():
        weight = trainer.model.get_parameter(name)
        assert (weight[~kept] == 0).all()
        assert (weight[kept] != 0).any()


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("mode", ["decoupled", "in_loss"])
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, mode: str, stop: int) -> None:
    straight, first, second = (
        trainer_with(BackSlash(strength=5.0, until=4, prune=0.4, every=3, mode=mode), state="log8") for _ in range(3)
    )
    straight.fit(7)
    first.fit(stop)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(7)
    assert_same(straight, second)
    assert straight.evaluate() == second.evaluate()


def test_a_run_with_the_wrapped_optimizer_is_resumed_too(tmp_path: Path) -> None:
    straight, first, second = (trainer_with(state="log8", wrap=5.0) for _ in range(3))
    straight.fit(5)
    first.fit(2)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(5)
    assert_same(straight, second)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"strength": -1.0}, r"strength: got -1\.0"),
        ({"mode": "loss"}, "mode: got 'loss'"),
        ({"scope": "layers"}, "scope: got 'layers'.*did you mean 'layer'"),
        ({"until": -1}, "until: expected a step"),
        ({"prune": 1.0, "until": 3}, r"prune: expected a share in \[0, 1\)"),
        ({"prune": 0.5}, "prune: expected together with until"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BackSlash(**settings)  # type: ignore[arg-type]


def test_weights_on_a_grid_are_pulled_in_the_loss_alone() -> None:
    recipe = next(recipe for recipe in RECIPES.values() if recipe.update is not None)
    model = convert(Llama(SMALL, seed=0), recipe)
    with pytest.raises(ValueError, match=r"backslash: layers\.0\..* keeps its weights on the grid .*expected mode="):
        BackSlash().attach(model)
    BackSlash(mode="in_loss").attach(model)


def test_the_experiment_shows_fewer_bits() -> None:
    experiment = BackSlash.experiment()
    values = [experiment.run(Context(seed)) for seed in (0, 1)]
    results = [judge(claim, values) for claim in experiment.claims]
    assert results[0].effect is not None
    assert results[0].effect.difference < -experiment.claims[0].margin
