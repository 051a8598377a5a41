"""In a group of one process; what two do is in tests/support/trainer_processes.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.replicas import Replica, shard, total_norm
from narrowgauge.train.whole_state import cut, is_sharded, placed, whole

CPU = torch.device("cpu")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch is built without gloo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Experts(nn.Module):
    """A list in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(4, 4) for _ in range(2)) for _ in range(2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            for expert in layer:
                x = expert(x)
        return self.head(x)


def test_a_replica_looks_like_the_module_in_it(group: None) -> None:
    model = Llama(LlamaConfig.preset("tiny"))
    replica = Replica(model, CPU)
    assert replica.config is model.config
    assert [name for name, _ in replica.named_parameters()] == [name for name, _ in model.named_parameters()]
    ids = torch.arange(4)[None]
    assert torch.equal(replica(ids), model(ids))
    with pytest.raises(AttributeError, match="nothing"):
        _ = replica.nothing


def test_every_parameter_is_cut_and_lists_in_lists_are_served(group: None) -> None:
    torch.manual_seed(0)
    model = Experts()
    x, before = torch.ones(3, 4), {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = model(x)
    shard(model, CPU, 1)
    shard(model, CPU, 1)  # a later phase, which finds it cut
    assert all(is_sharded(p) for p in model.parameters())
    torch.testing.assert_close(model(x), expected)
    assert all(is_sharded(p) for p in model.parameters())  # after the forward too
    state = whole(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in before.items())
    back = placed({"model": state, "other": [state]}, {"model": model.state_dict(), "other": []})
    assert all(is_sharded(value) for value in back["model"].values())
    assert not is_sharded(back["other"][0]["head.bias"])
    assert whole(model.state_dict(), kept=False)["head.bias"] is None


def test_a_norm_over_shards_is_a_plain_number(group: None) -> None:
    model = Experts()
    shard(model, CPU, 1)
    norm = torch.linalg.vector_norm(cut(torch.tensor([3.0, 4.0]), model.head.bias))
    assert is_sharded(norm)
    assert not is_sharded(total_norm(norm))
    assert total_norm(norm).item() == 5.0
    plain = torch.tensor(2.0)
    assert total_norm(plain) is plain
