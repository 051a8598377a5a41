"""Which launches scaled_gemm may take, and which the model prefers: pure functions, on shapes of Llama 3 8B."""

from __future__ import annotations

from functools import partial

import pytest

from narrowgauge.formats import parse
from narrowgauge.kernels._gemm_config import (
    Config,
    Product,
    block_k_of,
    blocks_along_k,
    candidates,
    facts_of,
    product_of,
)
from narrowgauge.kernels._gemm_model import residents, seconds, shared_bytes
from narrowgauge.kernels._gemm_plan import INTERPRETER, PROMOTE_EVERY
from narrowgauge.kernels._gpu_facts import GPUS, gpu_of

TARGETS = tuple(GPUS)
PAIRS = (
    ("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/1x128", "e4m3fn/128x128"), ("e4m3fn/1x128", "e4m3fn/1x128"),
    ("int8/row", "int8/row"), ("rf8/row", "rf8/1x64"), ("mxfp8", "mxfp8"), ("nf4/row", "nf4/row"),
)  # fmt: skip
# Columns and contraction of Llama 3 8B: attention, its keys and values, the two sides of the MLP.
LAYERS = ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336))


def product(m: int, n: int, k: int, pair: tuple[str, str] = PAIRS[0], turned: str = "") -> Product:
    return product_of(m, n, k, parse(pair[0]), parse(pair[1]), turned)


def best(wanted: Product, target: str) -> Config:
    return min(candidates(wanted, target), key=partial(seconds, product=wanted, target=target))


def tiles(config: Config, wanted: Product) -> int:
    return -(-wanted.m // config.block_m) * -(-wanted.n // (config.block_n * config.halves))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pair", PAIRS, ids="·".join)
def test_the_model_finds_a_launch_that_fits_for_every_layer(pair: tuple[str, str], target: str) -> None:
    for n, k in LAYERS:
        for m in (1, 16, 512, 8192):
            for turned in ("", "b", "ab"):
                wanted = product(m, n, k, pair, turned)
                config = best(wanted, target)
                assert shared_bytes(config, wanted, target) <= gpu_of(target).shared
                assert residents(config, wanted, target) >= 1
                assert config.num_warps * 32 <= gpu_of(target).threads
                assert seconds(config, wanted, target) < float("inf")


@pytest.mark.parametrize("target", TARGETS)
def test_no_step_is_longer_than_a_promoted_sum_or_a_block_of_scales(target: str) -> None:
    for a, b in PAIRS:
        facts = facts_of(a, b, target)
        assert block_k_of(facts) <= PROMOTE_EVERY
        assert block_k_of(facts) == 32 or facts.columns == 0 or block_k_of(facts) <= facts.columns
        assert facts.plan.promote == "" or block_k_of(facts) == PROMOTE_EVERY


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pair", PAIRS[:4], ids="·".join)
def test_few_rows_fill_the_units_and_many_are_not_split(pair: tuple[str, str], target: str) -> None:
    units = gpu_of(target).units
    for n, k in LAYERS:
        skinny, large = product(16, n, k, pair), product(8192, n, k, pair)
        config = best(skinny, target)
        assert config.split_k > 1 or tiles(config, skinny) >= 0.4 * units
        assert tiles(config, skinny) * config.split_k < 4 * units
        assert best(large, target).split_k == 1
    # Keys and values: so few tiles that only a split fills the units.
    assert best(product(16, 1024, 4096, pair), target).split_k > 1


@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
def test_large_products_run_persistently_with_tensor_descriptors(target: str) -> None:
    for pair in PAIRS[:3]:
        config = best(product(8192, 14336, 4096, pair), target)
        assert config.persistent
        assert config.tma
        assert config.specialize == (target == "sm_100")
    rows, blocks = (best(product(8192, 4096, 4096, pair), target) for pair in PAIRS[:2])
    assert rows.block_n * rows.halves == 256
    assert rows.halves == (2 if target == "sm_90" else 1)
    assert (blocks.block_n, blocks.halves) == (128, 1)


def test_products_that_descriptors_cannot_describe_go_by_pointers() -> None:
    aligned = product(4096, 4096, 4096)
    assert all(config.tma for config in candidates(aligned, "sm_90"))
    assert not any(config.tma for config in candidates(aligned._replace(aligned=False), "sm_90"))
    assert not any(config.tma for config in candidates(aligned, "sm_80"))
    # A K-block that is no multiple of the step ends inside of a box, which a descriptor would read beyond.
    assert not any(config.tma for config in candidates(product(4096, 4096, 4096, ("e4m3fn/1x48", "e4m3fn")), "sm_90"))


def test_a_split_leaves_enough_for_every_part() -> None:
    for k in (32, 100, 4096):
        wanted = product(16, 64, k)
        steps = blocks_along_k(wanted, facts_of(*PAIRS[0], "sm_90"), 128)
        assert max(config.split_k for config in candidates(wanted, "sm_90")) <= max(1, steps // 4)


def test_turning_an_operand_costs_time_on_hopper_and_none_on_blackwell() -> None:
    straight, turned = product(4096, 4096, 4096), product(4096, 4096, 4096, turned="ab")
    for target, ratio in (("sm_90", 1.2), ("sm_100", 1.0)):
        times = [seconds(best(wanted, target), wanted, target) for wanted in (straight, turned)]
        assert times[1] >= ratio * times[0]
        assert ratio > 1.0 or times[1] == times[0]


def test_a_tile_that_needs_too_much_memory_cannot_run() -> None:
    config = Config(256, 256, 128, 1, 8, 4)
    assert seconds(config, product(4096, 4096, 4096), "sm_90") == float("inf")


def test_classes_round_rows_up_to_a_power_of_two() -> None:
    assert [product(m, 64, 64).m for m in (1, 16, 17, 1000, 1024)] == [16, 16, 32, 1024, 1024]
    assert product(1000, 64, 64).key == product(1024, 64, 64).key
    assert product(1000, 64, 64).key != product(1000, 64, 64, turned="b").key


def test_the_interpreter_has_a_single_launch() -> None:
    assert len(candidates(product(4096, 4096, 4096), INTERPRETER)) == 1
