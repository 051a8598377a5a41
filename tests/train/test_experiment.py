import pytest
import torch

from narrowgauge.nn import QuantLinear
from narrowgauge.optim import AdamW
from narrowgauge.train import BatchStream, ByteCorpus, Claim, Context, Experiment, Trainer, tiny_llama

SMALL = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 16}


def trained(context: Context, steps: int = 3) -> Trainer:
    data = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2)
    return context.fit(context.prepare(tiny_llama(context.seed, **SMALL)), data, steps)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, same, other = (trained(Context(seed)).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_recipe_and_state_reach_layers_and_optimizer() -> None:
    plain, composed = trained(Context(0)), trained(Context(0, recipe="fp8_row", state="log8"))
    assert not any(isinstance(module, QuantLinear) for module in plain.model.modules())
    assert any(isinstance(module, QuantLinear) for module in composed.model.modules())
    assert isinstance(plain.optimizer, torch.optim.AdamW)
    assert isinstance(composed.optimizer, AdamW)


def test_a_scale_shortens_and_never_lengthens() -> None:
    context = Context(0, scale=0.01)
    assert (context.steps(1000), context.steps(50), context.steps(1)) == (10, 2, 1)
    assert (context.count(1000), context.count(10)) == (10, 1)
    assert Context(0).steps(1000) == 1000


def test_progress_moves_on_from_arm_to_arm() -> None:
    told: list[tuple[float, str]] = []
    context = Context(0, tell=lambda share, what: told.append((share, what)))
    context.begin("one", 0.25)
    context.begin("two", 0.75)
    trained(context)
    assert told[:2] == [(0.0, "one"), (0.25, "two")]
    assert told[-1][0] == 0.25
    assert told[-1][1].startswith("two: step 3 of 3, loss ")


def test_what_cannot_be_an_experiment_is_refused() -> None:
    def run(context: Context) -> dict[str, float]:
        return {"a": 1.0, "b": 2.0}

    with pytest.raises(ValueError, match="seeds: expected at least 2, got 1"):
        Experiment("nothing", (Claim("a claim", "a", "b"),), run, seeds=1)
    with pytest.raises(ValueError, match="claims: expected at least one that is judged"):
        Experiment("nothing", (Claim("a claim", "a", "b", judged=False),), run)
    with pytest.raises(ValueError, match=r"scale: expected a number in \(0, 1\], got 2"):
        Context(0, scale=2.0)
