import random

import numpy as np
import torch

from narrowgauge.train.rng import derive_seed, global_state, isolated, set_global_state
from narrowgauge.train.tree import flatten, unflatten

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()  # noqa: NPY002


def test_derived_seeds_differ_in_every_part_and_type() -> None:
    every: list[tuple[int | str, ...]] = [(0, 1), (1, 0), (0, "1"), (0, 1, 0), (1,), ("1",)]
    seeds = {derive_seed(*parts) for parts in every}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(3, "ema") == derive_seed(3, "ema")


def test_isolated_draws_depend_on_the_seed_alone_and_leave_the_caller_alone() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with isolated(CPU, seed):
            drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_global_generators_continue_from_a_state_that_went_through_a_checkpoint() -> None:
    node, tensors = flatten(global_state(CPU))
    expected = [draw() for _ in range(3)]
    set_global_state(unflatten(node, tensors), CPU)
    assert [draw() for _ in range(3)] == expected
