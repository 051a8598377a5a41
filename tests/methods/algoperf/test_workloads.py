import pytest
import torch

from narrowgauge.methods.algoperf import Workload, all_workloads
from narrowgauge.train import BatchSource, Trainer

WORKLOADS = {workload.name: workload for workload in all_workloads()}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_trains_and_is_measured(name: str) -> None:
    workload = WORKLOADS[name]
    data = workload.data(3)
    assert isinstance(data, BatchSource)
    model = workload.model(3)
    before = workload.measure(model, data.validation())
    assert not workload.is_reached(before)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    Trainer(model, data, optimizer, methods=workload.methods()).fit(3)
    assert model.training
    after = workload.measure(model, data.validation())
    assert after != before


@pytest.mark.parametrize("name", WORKLOADS)
def test_weights_and_batches_are_functions_of_the_seed(name: str) -> None:
    workload = WORKLOADS[name]

    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in workload.model(seed).parameters()])

    generator = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(generator, torch.get_rng_state())
    first = [next(workload.data(seed))["input_ids"] for seed in (1, 1, 2)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_impossible_workloads_are_refused() -> None:
    parts = {"model": None, "data": None, "metric": None, "target": 1.0}
    with pytest.raises(ValueError, match="steps, eval_every: expected at least 1, got 0 and 1"):
        Workload("w", steps=0, eval_every=1, **parts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="better: expected 'lower' or 'higher', got 'up'"):
        Workload("w", steps=1, eval_every=1, better="up", **parts)  # type: ignore[arg-type]
