import pytest
import torch

from narrowgauge.train import BatchStream, ByteCorpus, Trainer, cross_entropy
from narrowgauge.train.moe import MoEConfig, MoELlama
from narrowgauge.train.moe_loss import RouterLoss, routings

SMALL = MoEConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=8, max_seq_len=16, num_experts=4)


def stream() -> BatchStream:
    return BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2)


def test_the_loss_is_the_sum_of_its_parts() -> None:
    model, batch = MoELlama(SMALL, seed=0), next(stream())
    loss, metrics = RouterLoss(balance=0.5, z=0.25).loss(model, batch)
    balance = sum(routing.balance_loss().item() for routing in routings(model)) / 2
    z = sum(routing.z_loss().item() for routing in routings(model)) / 2
    assert metrics == pytest.approx({"balance_loss": balance, "z_loss": z})
    assert loss.item() == pytest.approx(cross_entropy(model, batch).item() + 0.5 * balance + 0.25 * z)


def test_training_with_it_evens_the_use_of_the_experts() -> None:
    ends = {}
    for balance in (0.0, 1.0):
        model = MoELlama(SMALL, seed=0)
        with torch.no_grad():
            for layer in model.layers:
                layer.mlp.router.weight[0] += 0.3
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        metrics = Trainer(model, stream(), optimizer, methods=[RouterLoss(balance=balance)]).fit(25)
        ends[balance] = metrics["balance_loss"]
    assert ends[1.0] < ends[0.0] - 0.01


def test_a_model_that_has_seen_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model: layers\.0\.mlp has not seen any token yet"):
        routings(MoELlama(SMALL, seed=0))


@pytest.mark.parametrize("name", ["balance", "z"])
def test_factors_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a number of at least 0, got -1"):
        RouterLoss(**{name: -1.0})
