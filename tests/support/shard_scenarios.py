"""What two processes do for tests/optim/test_sharded.py: every scenario in one run, because processes start slowly.

    python shard_scenarios.py RANK FOLDER

writes FOLDER/RANK.json: scenario → "" or the traceback of what failed; and FOLDER/measured.json.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from narrowgauge.optim import AdamW, Lion, Muon, load_optimizer, save_optimizer

STATES = ("log8", "log4", "coat", "int4", "solo", "bf16_sr", "fp32")
ALIGNED = {"even": (8, 128), "uneven": (7, 256), "lonely": (1, 128), "deep": (5, 2, 128)}
OTHERS = {"norm": (301,), "narrow": (6, 45), "odd": (5,)}
SHAPES = {**ALIGNED, **OTHERS}


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Bag(nn.Module):
    """Parameters of all shapes."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        for index, (name, shape) in enumerate(SHAPES.items()):
            self.register_parameter(name, nn.Parameter(gaussian(*shape, seed=index).to(dtype)))


class Net(nn.Module):
    """Layers with rows of whole groups, norms and biases."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.norm, self.last = nn.Linear(128, 14), nn.LayerNorm(14), nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def make(model: nn.Module, kind: Any = AdamW, **options: Any) -> Any:
    return kind(model.named_parameters(), **{"lr": 1e-2, "seed": 3, **options})


def set_gradients(model: nn.Module, step: int) -> None:
    for index, p in enumerate(model.parameters()):
        g = gaussian(*p.shape, seed=100 * step + index).to(p.dtype) * 10.0 ** (index % 3 - 1)
        p.grad = distribute_tensor(g, p.device_mesh, p.placements) if isinstance(p, DTensor) else g


def steps(model: nn.Module, optimizer: Any, first: int, count: int) -> None:
    for step in range(first, first + count):
        set_gradients(model, step)
        optimizer.step()


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def moments(model: nn.Module, optimizer: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Of whole parameters, as they read back."""
    found = {}
    for name, p in model.named_parameters():
        parts = optimizer.moments(p)
        if isinstance(p, DTensor):
            shape, stride = p.shape, torch.empty(p.shape).stride()
            parts = [
                DTensor.from_local(x, p.device_mesh, p.placements, shape=shape, stride=stride).full_tensor()
                for x in parts
            ]
        found[name] = tuple(parts)
    return found


def assert_same(a: Any, b: Any, where: str) -> None:
    for name, value in a.items():
        pairs = zip(value, b[name], strict=True) if isinstance(value, tuple) else [(value, b[name])]
        for x, y in pairs:
            assert x.dtype == y.dtype, (where, name)
            assert torch.equal(whole(x).nan_to_num(9e9), whole(y).nan_to_num(9e9)), (where, name)


def live(optimizer: Any) -> dict[str, Tensor]:
    """All local tensors in memory."""
    named = {}
    for position, (p, state) in enumerate(optimizer.state.items()):
        named |= {f"{position}.{key}": value for key, value in state.items()}
        named[f"{position}.weight"] = local(p.detach())
    return named


def error_of(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().sum() / y.square().sum())


def shards_are_steps_of_the_whole(folder: Path) -> None:
    for state in STATES:
        alone, cut = Bag(), fully_shard(Bag())
        reference, optimizer = make(alone, state=state), make(cut, state=state)
        steps(alone, reference, 1, 3)
        steps(cut, optimizer, 1, 3)
        left, right = dict(alone.named_parameters()), dict(cut.named_parameters())
        exact = [name for name in ALIGNED if state != "int4"]  # whose scales of columns are those of a shard
        assert_same({k: left[k] for k in exact}, right, state)
        stored, mine = moments(alone, reference), moments(cut, optimizer)
        assert_same({k: stored[k] for k in exact}, mine, state)
        # Other groups: the same to within the codec's errors; of fp32 to an ulp.
        for name in [name for name in SHAPES if name not in exact]:
            torch.testing.assert_close(whole(right[name]), left[name], rtol=0, atol=1e-6 if state == "fp32" else 0.03)


def masters_round_shards_as_the_whole(folder: Path) -> None:
    for master in ("sr", "residual"):
        alone, cut = Bag(torch.bfloat16), fully_shard(Bag(torch.bfloat16))
        for model in (alone, cut):
            optimizer = make(model, state="fp32", master=master)
            steps(model, optimizer, 1, 2)
        left, right = dict(alone.named_parameters()), dict(cut.named_parameters())
        # The others begin at an odd element in the second process: unbiased there, but not the same draws.
        assert_same({name: left[name] for name in ALIGNED}, right, master)
        for name in OTHERS:
            torch.testing.assert_close(whole(right[name]), left[name], rtol=0.02, atol=0)


def fsdp_backward_steps_like_one_process(folder: Path) -> None:
    x = gaussian(6, 128, seed=1)
    for state, clip in (("log8", None), ("coat", 0.5)):
        alone, cut = Net(), Net()
        for part in (cut.first, cut.norm, cut.last):
            fully_shard(part)
        fully_shard(cut)
        reference, optimizer = (make(m, state=state, clip_norm=clip, lr=1e-3) for m in (alone, cut))
        for _ in range(3):
            for model, chosen in ((alone, reference), (cut, optimizer)):
                chosen.zero_grad()
                model(x).square().mean().backward()
                chosen.step()
        for p, q in zip(alone.parameters(), cut.parameters(), strict=True):
            torch.testing.assert_close(whole(q), p, rtol=0, atol=2e-4)


def the_norm_is_of_all_shards(folder: Path) -> None:
    alone, cut = Bag(), fully_shard(Bag())
    for model in (alone, cut):
        steps(model, make(model, state="fp32", clip_norm=1e-2, eps=1e-2), 1, 2)
    for p, q in zip(alone.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(whole(q), p, rtol=0, atol=1e-6)


def all_processes_raise_or_none(folder: Path) -> None:
    cut = fully_shard(Bag())
    optimizer = make(cut, nonfinite="raise", state="coat")
    steps(cut, optimizer, 1, 1)
    before = copy.deepcopy(live(optimizer))
    set_gradients(cut, 2)
    if dist.get_rank() == 1:
        local(cut.even.grad)[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="'even' that this process holds are not finite"):
        optimizer.step()
    assert_same(before, live(optimizer), "raise")


def a_nan_stays_in_its_group(folder: Path) -> None:
    cut = fully_shard(Bag())
    optimizer = make(cut, state="log8", clip_norm=1.0)
    set_gradients(cut, 1)
    if dist.get_rank() == 1:
        local(cut.uneven.grad)[1, 130] = torch.inf  # row 5 of the whole, its second group
    optimizer.step()
    for index, moment in enumerate(moments(cut, optimizer)["uneven"]):
        broken = torch.isnan(moment)
        assert broken[5, 128:].all(), index
        assert broken.sum() == 128, index
    assert torch.isfinite(whole(cut.uneven)).sum() == 7 * 256 - 1


def hybrid_shards(folder: Path) -> None:
    for shape in ((2, 1), (1, 2)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
        alone, cut = Bag(), fully_shard(Bag(), mesh=mesh)
        reference, optimizer = make(alone, state="log8"), make(cut, state="log8", clip_norm=1e9)
        steps(alone, reference, 1, 2)
        steps(cut, optimizer, 1, 2)
        left, right = dict(alone.named_parameters()), dict(cut.named_parameters())
        assert_same({k: left[k] for k in ALIGNED}, right, str(shape))
        saved = optimizer.state_dict()["state"][0]["exp_avg_scale"]
        assert saved.placements == cut.even.placements


def replicas_keep_the_same_bits(folder: Path) -> None:
    for state, master, dtype in (("log8", "sr", torch.bfloat16), ("log4", "none", torch.float32)):
        model = DistributedDataParallel(Net().to(dtype))
        optimizer = make(model, state=state, master=master)
        for step in range(3):
            optimizer.zero_grad()
            x = gaussian(4, 128, seed=10 * step + dist.get_rank()).to(dtype)
            model(x).float().square().mean().backward()
            optimizer.step()
        for name, value in live(optimizer).items():
            raw = value.reshape(-1).view(torch.uint8)
            everyone = [torch.empty_like(raw) for _ in range(dist.get_world_size())]
            dist.all_gather(everyone, raw)
            assert all(torch.equal(raw, other) for other in everyone), name


def a_checkpoint_resumes_to_the_same_bits(folder: Path) -> None:
    """At the same number of processes, groups that begin with shards included."""
    wide = torch.float32
    kinds = (("log8", "residual", torch.bfloat16), ("log4", "none", wide), (("int4", "solo"), "none", wide))
    for state, master, dtype in kinds:
        straight, first, second = (fully_shard(Bag(dtype)) for _ in range(3))
        a, b, c = (make(model, state=state, master=master) for model in (straight, first, second))
        steps(straight, a, 1, 4)
        steps(first, b, 1, 2)
        path = folder / f"same-{state[0]}-{dtype}"
        saved = {"model": get_model_state_dict(first), "optimizer": get_optimizer_state_dict(first, b)}
        dcp.save(saved, checkpoint_id=path)
        wanted = {"model": get_model_state_dict(second), "optimizer": get_optimizer_state_dict(second, c)}
        dcp.load(wanted, checkpoint_id=path)
        set_model_state_dict(second, wanted["model"])
        set_optimizer_state_dict(second, c, wanted["optimizer"])
        assert_same(live(b), live(c), "loaded")
        steps(second, c, 3, 2)
        assert_same(live(a), live(c), "continued")
        assert c.param_groups[0]["state"] == a.param_groups[0]["state"]


def plain_state_dicts_and_flat_ones(folder: Path) -> None:
    for flat in (False, True):
        first, second = fully_shard(Bag()), fully_shard(Bag())
        a, b = make(first, state=("log8", "coat")), make(second, state=("log8", "coat"))
        steps(first, a, 1, 2)
        steps(second, b, 7, 1)
        path = folder / f"plain-{flat}"
        if flat:
            options = StateDictOptions(flatten_optimizer_state_dict=True)
            dcp.save(get_optimizer_state_dict(first, a, options=options), checkpoint_id=path)
            wanted = get_optimizer_state_dict(second, b, options=options)
            dcp.load(wanted, checkpoint_id=path)
            set_optimizer_state_dict(second, b, wanted, options=options)
        else:
            dcp.save(a.state_dict(), checkpoint_id=path)
            wanted = b.state_dict()
            dcp.load(wanted, checkpoint_id=path)
            b.load_state_dict(wanted)
        left, right = live(a), live(b)
        assert_same({key: value for key, value in left.items() if "weight" not in key}, right, str(flat))


def torch_takes_and_gives_states(folder: Path) -> None:
    cut, theirs = fully_shard(Bag()), fully_shard(Bag())
    optimizer, other = make(cut, state="fp32"), torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    steps(cut, optimizer, 1, 2)
    other.load_state_dict(optimizer.torch_state_dict())
    steps(theirs, other, 3, 1)
    for p, q in zip(cut.parameters(), theirs.parameters(), strict=True):
        assert other.state[q]["exp_avg"].placements == p.placements
    back = make(cut, state="log8")
    back.load_state_dict(other.state_dict())
    for (m, _), q in zip(moments(cut, back).values(), theirs.parameters(), strict=True):
        assert error_of(m, whole(other.state[q]["exp_avg"])) < 1e-3


def whole_states_and_shards(folder: Path) -> None:
    """The whole of a sharded state into one process's optimizer, files in both directions."""
    alone, cut = Bag(), fully_shard(Bag())
    steps(alone, reference := make(alone, state="log8"), 1, 2)
    steps(cut, optimizer := make(cut, state="log8"), 1, 2)
    saved = get_optimizer_state_dict(cut, optimizer, options=StateDictOptions(full_state_dict=True))
    fresh = make(Bag(), state="log8")
    order = {name: index for index, name in enumerate(SHAPES)}
    if dist.get_rank() == 0:
        group = {**saved["param_groups"][0], "params": list(order.values())}
        state = {order[name]: value for name, value in saved["state"].items()}
        fresh.load_state_dict({"state": state, "param_groups": [group]})
    save_optimizer(optimizer, folder / "shards.safetensors")
    if dist.get_rank() == 0:
        save_optimizer(reference, folder / "whole.safetensors")
    dist.barrier()
    plain, shards, again = make(Bag()), make(fully_shard(Bag())), make(fully_shard(Bag()))
    load_optimizer(plain, folder / "shards.safetensors")
    load_optimizer(shards, folder / "whole.safetensors")
    load_optimizer(again, folder / "shards.safetensors")
    assert_same({k: v for k, v in live(optimizer).items() if "weight" not in k}, live(again), "again")
    if dist.get_rank() == 0:
        assert_same(live(fresh), live(plain), "full_state_dict")
    for position, name in enumerate(SHAPES):
        if name in ALIGNED:
            mine = reference.state[reference.param_groups[0]["params"][position]]
            assert_same(mine, plain.state[plain.param_groups[0]["params"][position]], name)
    cut_now = dict(zip(SHAPES, shards.param_groups[0]["params"], strict=True))
    for name in ALIGNED:
        assert_same(optimizer.state[dict(cut.named_parameters())[name]], shards.state[cut_now[name]], name)


def muon_and_lion_are_saved_in_shards(folder: Path) -> None:
    for kind in (Muon, Lion):
        model, other = fully_shard(nn.Linear(128, 6, bias=False)), fully_shard(nn.Linear(128, 6, bias=False))
        a, b = make(model, kind, state="coat"), make(other, kind, state="coat")
        steps(model, a, 1, 2)
        dcp.save(get_optimizer_state_dict(model, a), checkpoint_id=folder / kind.__name__)
        wanted = get_optimizer_state_dict(other, b)
        dcp.load(wanted, checkpoint_id=folder / kind.__name__)
        set_optimizer_state_dict(other, b, wanted)
        left, right = live(a), live(b)
        assert_same({key: value for key, value in left.items() if "weight" not in key}, right, kind.__name__)


def explain_says_what_changes(folder: Path) -> None:
    optimizer = make(fully_shard(Bag()), state="coat")
    assert "in shards; groups of 3 parameters begin with each shard" in str(optimizer.explain())
    assert "in shards of whole groups" in str(make(fully_shard(Bag()), state="fp32").explain())


def what_does_not_fit_is_refused(folder: Path) -> None:
    cut = fully_shard(Bag())
    steps(cut, optimizer := make(cut, state="coat"), 1, 1)
    for state, message in (("int8", "exp_avg"), ("fp8", "exp_avg_scale"), (("coat", "log8"), "exp_avg_sq_scale")):
        saved = optimizer.state_dict()
        saved["param_groups"][0]["state"] = state
        before = copy.deepcopy(live(optimizer))
        with pytest.raises(ValueError, match=f"state_dict: {message}: expected"):
            optimizer.load_state_dict(saved)
        assert_same(before, live(optimizer), "refused")


SCENARIOS: tuple[Callable[[Path], None], ...] = (
    shards_are_steps_of_the_whole, masters_round_shards_as_the_whole, fsdp_backward_steps_like_one_process,
    the_norm_is_of_all_shards, all_processes_raise_or_none, a_nan_stays_in_its_group, hybrid_shards,
    replicas_keep_the_same_bits, a_checkpoint_resumes_to_the_same_bits, plain_state_dicts_and_flat_ones,
    torch_takes_and_gives_states, whole_states_and_shards, muon_and_lion_are_saved_in_shards, explain_says_what_changes,
    what_does_not_fit_is_refused,
)  # fmt: skip


@contextmanager
def group(folder: Path, rank: int, world: int, name: str) -> Iterator[None]:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/{name}.meeting",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    try:
        yield
    finally:
        gc.collect()  # replicas are in cycles; left to the interpreter's end, their threads may find it gone
        dist.destroy_process_group()


def save(model: nn.Module, optimizer: Any, path: Path) -> None:
    dcp.save({"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)},
             checkpoint_id=path)  # fmt: skip


def load(model: nn.Module, optimizer: Any, path: Path) -> None:
    wanted = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.load(wanted, checkpoint_id=path)
    set_model_state_dict(model, wanted["model"])
    set_optimizer_state_dict(model, optimizer, wanted["optimizer"])


RESHARDED = ("log8", "coat", "log4", "fp8", "solo", "fp32")


def two_to_one_to_two(folder: Path, rank: int, phase: str) -> dict[str, float]:
    """Every phase loads what the one before saved. Rows of whole groups: the bits of one process that was never cut,
    continued after each phase; others: read back within one store of the codec."""
    measured = {}
    for state in RESHARDED:
        alone, cut = Bag(), fully_shard(Bag())
        steps(alone, reference := make(alone, state=state), 1, {"first": 2, "one": 3, "second": 4}[phase])
        optimizer = make(cut, state=state)
        if phase == "first":
            steps(cut, optimizer, 1, 2)
        else:
            load(cut, optimizer, folder / ("first" if phase == "one" else "one") / state)
            read = torch.load(folder / f"read-{state}-{'first' if phase == 'one' else 'one'}.pt")
            mine = moments(cut, optimizer)
            assert_same({name: mine[name] for name in ALIGNED}, read, state)
            for name in OTHERS:
                for which, x, y in zip("mv", mine[name], read[name], strict=True):
                    key = f"{state} {which}"
                    measured[key] = max(measured.get(key, 0.0), error_of(x, y))
            steps(cut, optimizer, 3 if phase == "one" else 4, 1)
        left, right = dict(alone.named_parameters()), dict(cut.named_parameters())
        assert_same({name: left[name] for name in ALIGNED}, right, f"{phase} {state}")
        assert_same({name: moments(alone, reference)[name] for name in ALIGNED}, moments(cut, optimizer), state)
        save(cut, optimizer, folder / phase / state)
        read = moments(cut, optimizer)
        if rank == 0:
            torch.save(read, folder / f"read-{state}-{phase}.pt")
    return measured


def attempt(results: dict[str, str], name: str, work: Callable[[], Any]) -> Any:
    try:
        value = work()
    except BaseException:  # CheckpointException is no Exception
        results[name] = traceback.format_exc()
        return None
    results.setdefault(name, "")
    return value


def main(rank: int, folder: Path) -> None:
    results: dict[str, str] = {}
    measured: dict[str, Any] = {}
    with group(folder, rank, 2, "two"):
        for scenario in SCENARIOS:
            attempt(results, scenario.__name__, lambda scenario=scenario: scenario(folder))
        attempt(results, "two_to_one_to_two", lambda: two_to_one_to_two(folder, rank, "first"))
    (folder / f"{rank}.json").write_text(json.dumps(results))
    if any(results.values()):
        return
    if rank == 0:
        with group(folder, 0, 1, "one"):
            measured["1"] = attempt(results, "two_to_one_to_two", lambda: two_to_one_to_two(folder, rank, "one"))
    with group(folder, rank, 2, "again"):
        measured["2"] = attempt(results, "two_to_one_to_two", lambda: two_to_one_to_two(folder, rank, "second"))
    (folder / f"{rank}.json").write_text(json.dumps(results))
    if rank == 0:
        (folder / "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
