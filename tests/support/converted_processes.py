"""What two processes do for tests/nn/compat/test_distributed.py: every scenario in one run, because processes start
slowly.

    python converted_processes.py RANK FOLDER

writes FOLDER/RANK.json: scenario → "" or the traceback of what failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.functional import cosine_similarity
from torch.nn.parallel import DistributedDataParallel

import narrowgauge as ng
from narrowgauge.nn import RECIPES, SLOTS, QuantLinear, Recipe, recipe
from narrowgauge.nn.batch_split import tokens_per_scale
from narrowgauge.optim import AdamW
from shard_scenarios import attempt, group, load, moments, save, steps, whole

TOKENS, WIDTH = 256, 128
STOCHASTIC = recipe("stochastic", **dict.fromkeys(SLOTS, "e4m3fn/row+sr"))
SAME = 1e-4
"""Relative difference that the order of sums may make; a value that crosses a rounding border is in it."""
NAMES = ("fp8_row", "fp8_tensor", "fp8_deepseek", "mxfp8", "int8_switchback")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def model(plan: str | Recipe | None) -> nn.Module:
    torch.manual_seed(0)
    built = nn.Sequential(Block(), Block(), nn.Linear(WIDTH, WIDTH, bias=False))
    return built if plan is None else ng.convert(built, plan)


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    """The whole one, and this process's half."""
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(step))
    return x, x.chunk(dist.get_world_size())[dist.get_rank()]


def backward(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    module(x).square().mean().backward()
    return {name.removeprefix("module."): whole(p.grad) for name, p in module.named_parameters() if p.grad is not None}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)


def sharded(module: nn.Module, **options: Any) -> nn.Module:
    for block in list(module)[:2]:
        fully_shard(block, **options)
    return fully_shard(module, **options)


def compare(wrap: Callable[[nn.Module], nn.Module], name: str) -> None:
    """Gradients of two halves in two processes against those of the whole batch in one."""
    x, half = batch()
    alone, many = backward(model(name), x), backward(wrap(model(name)), half)
    span = tokens_per_scale(RECIPES[name])
    if span is not None and len(half) % span == 0:
        assert difference(many, alone) < SAME, name
    else:
        # Other scales for other tokens: the gradients differ by less than quantising moves them.
        exact = backward(model(None), x)
        assert SAME < difference(many, alone) < 2 * difference(alone, exact), name
        assert min(cosine_similarity(many[key].flatten(), exact[key].flatten(), dim=0) for key in exact) > 0.99


def ddp_is_one_process_where_scales_are_of_tokens(folder: Path) -> None:
    for name in NAMES:
        compare(DistributedDataParallel, name)


def fsdp_is_one_process_where_scales_are_of_tokens(folder: Path) -> None:
    for name in NAMES:
        compare(sharded, name)


def fsdp_and_ddp_agree(folder: Path) -> None:
    """Whatever the recipe, because both quantise the same halves; random streams included, at each step."""
    for plan in ("fp8_row", "fp8_tensor", STOCHASTIC):
        replicated, cut = DistributedDataParallel(model(plan)), sharded(model(plan))
        for step in range(2):
            _, half = batch(step)
            assert difference(backward(cut, half), backward(replicated, half)) < SAME, (plan, step)


def counters_are_those_of_one_process(folder: Path) -> None:
    for wrap in (DistributedDataParallel, sharded):
        wrapped = wrap(model(STOCHASTIC))
        for step in range(3):
            backward(wrapped, batch(step)[1])
        counters = {name: int(value) for name, value in wrapped.state_dict().items() if "rounding_step" in name}
        assert set(counters.values()) == {3}
        assert len(counters) == 5
        together: list[Any] = [None, None]
        dist.all_gather_object(together, counters)
        assert together[0] == together[1]


def nothing_is_reduced_but_gradients(folder: Path) -> None:
    """Scales stay each process's own: the forward of a half is that of the half alone, to the bit."""
    _, half = batch()
    for name in ("fp8_tensor", "fp8_row"):
        expected = model(name)(half)
        assert torch.equal(DistributedDataParallel(model(name))(half), expected)
        assert torch.equal(sharded(model(name))(half), expected)


def converted_before_or_after_sharding(folder: Path) -> None:
    _, half = batch()
    after = sharded(model(None))
    first = after[0].up
    ng.convert(after, "fp8_row")
    assert after[0].up is first
    assert type(first) is QuantLinear
    expected, actual = backward(sharded(model("fp8_row")), half), backward(after, half)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    ng.revert(after)
    plain = backward(sharded(model(None)), half)
    again = backward(after, half)
    assert all(torch.equal(again[name], plain[name]) for name in plain)


def a_layer_that_is_sharded_itself_is_left_alone_or_stays(folder: Path) -> None:
    wrapped = nn.Sequential(fully_shard(nn.Linear(8, 8)), nn.Linear(8, 8))
    ng.convert(wrapped)
    assert "a FSDPLinear, whose own forward" in ng.explain(wrapped).rows[0].reason
    assert type(wrapped[1]) is QuantLinear
    converted = nn.Sequential(fully_shard(QuantLinear(8, 8)), nn.Linear(8, 8))
    with pytest.raises(ValueError, match="0 is a FSDPQuantLinear; revert before"):
        ng.revert(converted)


def mixed_precision_policy(folder: Path) -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for plan in ("fp8_row", "int8_switchback"):
        _, half = batch()
        cut = sharded(model(plan), mp_policy=policy)
        assert cut(half).dtype == torch.bfloat16
        actual = backward(cut, half)
        halved = backward(DistributedDataParallel(model(plan).bfloat16()), half.bfloat16())
        for name, grad in actual.items():
            assert grad.dtype == torch.float32
            assert cosine_similarity(grad.flatten(), halved[name].float().flatten(), dim=0) > 0.99, (plan, name)


def gradients_accumulate_without_sync(folder: Path) -> None:
    """Two micro-batches, the first without communication, are the sum of both."""
    _, half = batch()
    parts = half.chunk(2)
    for wrap in (DistributedDataParallel, sharded):
        one = [backward(wrap(model("fp8_row")), part) for part in parts]
        wrapped = wrap(model("fp8_row"))
        if isinstance(wrapped, DistributedDataParallel):
            with wrapped.no_sync():
                wrapped(parts[0]).square().mean().backward()
        else:
            wrapped.set_requires_gradient_sync(False)
            wrapped(parts[0]).square().mean().backward()
            wrapped.set_requires_gradient_sync(True)
        wrapped(parts[1]).square().mean().backward()
        total = {name.removeprefix("module."): whole(p.grad) for name, p in wrapped.named_parameters()}
        assert difference(total, {name: one[0][name] + one[1][name] for name in total}) < SAME


SCENARIOS: tuple[Callable[[Path], None], ...] = (
    ddp_is_one_process_where_scales_are_of_tokens, fsdp_is_one_process_where_scales_are_of_tokens, fsdp_and_ddp_agree,
    counters_are_those_of_one_process, nothing_is_reduced_but_gradients, converted_before_or_after_sharding,
    a_layer_that_is_sharded_itself_is_left_alone_or_stays, mixed_precision_policy, gradients_accumulate_without_sync,
)  # fmt: skip


def make(cut: bool) -> tuple[nn.Module, AdamW]:
    """A converted model, and an optimizer whose states are codes."""
    built = model(STOCHASTIC)
    built = sharded(built) if cut else built
    return built, AdamW(built.named_parameters(), lr=1e-2, state="log8", seed=3)


def output_of(module: Any) -> Tensor:
    """Without backward, after which the outermost module would give up its whole parameters again."""
    with torch.no_grad():
        output: Tensor = module(batch()[0])
    module.reshard()
    return output


def two_to_one_to_two(folder: Path, phase: str) -> None:
    """Each phase loads what the one before saved: parameters, codes and counters, and with them the next forward, to
    the bit. Then it makes a step. Matrices, whose rows are whole groups, stay those of a model that was never cut."""
    before = {"one": "two", "again": "one"}.get(phase)
    done = {"two": 0, "one": 2, "again": 3}[phase]
    alone, reference = make(False)
    steps(alone, reference, 1, done)
    cut, optimizer = make(True)
    if before is not None:
        load(cut, optimizer, folder / before)
        assert int(cut[0].up.rounding_step) == {"one": 2, "again": 4}[phase]
        assert torch.equal(output_of(cut), torch.load(folder / f"{before}.pt"))
    for step in range(done + 1, done + (3 if phase == "two" else 2)):
        output_of(cut)
        steps(alone, reference, step, 1)
        steps(cut, optimizer, step, 1)
    stored, mine = moments(alone, reference), moments(cut, optimizer)
    for name, p in cut.named_parameters():
        pairs = [(whole(p), dict(alone.named_parameters())[name]), *zip(mine[name], stored[name], strict=True)]
        for one, other in pairs:
            if p.ndim == 2:
                assert torch.equal(one, other), (phase, name)
            else:
                torch.testing.assert_close(one, other, rtol=0.3, atol=0.03)
    save(cut, optimizer, folder / phase)
    output = output_of(cut)
    if dist.get_rank() == 0:
        torch.save(output, folder / f"{phase}.pt")


def main(rank: int, folder: Path) -> None:
    results: dict[str, str] = {}
    with group(folder, rank, 2, "two"):
        for scenario in SCENARIOS:
            attempt(results, scenario.__name__, lambda scenario=scenario: scenario(folder))
        attempt(results, "two_to_one_to_two", lambda: two_to_one_to_two(folder, "two"))
    (folder / f"{rank}.json").write_text(json.dumps(results))
    if any(results.values()):
        return
    if rank == 0:
        with group(folder, 0, 1, "one"):
            attempt(results, "two_to_one_to_two", lambda: two_to_one_to_two(folder, "one"))
    with group(folder, rank, 2, "again"):
        attempt(results, "two_to_one_to_two", lambda: two_to_one_to_two(folder, "again"))
    (folder / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
