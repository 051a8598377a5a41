"""Every path of the GEMM kernels, forced by a configuration, in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.formats import parse, quantize_reference
from narrowgauge.kernels import _gemm_triton as kernels
from narrowgauge.kernels._gemm_config import Config
from narrowgauge.kernels._gpu_facts import GPUS
from narrowgauge.kernels.gemm import GEMM

pytest.importorskip("triton", reason="the package triton is not installed")

SMALL = Config(block_m=16, block_n=16, block_k=32, halves=1, num_warps=4, num_stages=2, group_m=2)
PAIRS = (
    ("e4m3fn/row", "e4m3fn"), ("e4m3fn/1x32", "e4m3fn/32x32"), ("e4m3fn/1x48", "e4m3fn/row"), ("int8/row", "int8/row"),
    ("int8/1x32", "int8/row"), ("mxfp8", "e5m2/row"), ("nf4/row", "udynamic8"),
)  # fmt: skip
PATHS = {
    "one program a tile": SMALL,
    "persistent": SMALL._replace(persistent=True),
    "two halves": SMALL._replace(halves=2),
    "two halves, persistent": SMALL._replace(halves=2, persistent=True),
    "split in two": SMALL._replace(split_k=2),
    "more parts than blocks": SMALL._replace(split_k=16),
    "split halves": SMALL._replace(split_k=3, halves=2),
}


@pytest.fixture(autouse=True)
def _cpu_only(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("configurations are forced in the interpreter alone")


def operand(rng: np.random.Generator, rows: int, cols: int, scheme: str) -> tuple[Tensor, Tensor]:
    q = quantize_reference(rng.standard_normal((rows, cols)).astype(np.float32), scheme)
    return torch.from_numpy(q.codes), torch.from_numpy(np.asarray(q.scale))


def call(m: int, n: int, k: int, pair: tuple[str, str], bias: bool = True) -> tuple[Any, ...]:
    rng = np.random.default_rng(m + 100 * n + 10000 * k)
    added = torch.from_numpy(rng.standard_normal(n).astype(np.float32)) if bias else None
    return (*operand(rng, m, k, pair[0]), *operand(rng, n, k, pair[1]), *pair, added, torch.float32)


def launched(args: tuple[Any, ...], config: Config, activation: str = "none") -> Tensor:
    a, a_scale, b, b_scale, a_scheme, b_scheme, bias, dtype = args
    specs = parse(a_scheme), parse(b_scheme)
    return kernels.multiply(kernels.Call(a, a_scale, b, b_scale, *specs, bias, activation), dtype, config)


def assert_within(args: tuple[Any, ...], out: Tensor, activation: str = "none") -> None:
    error = (out.double() - GEMM.reference(*args, activation)).abs()
    assert (error <= GEMM.bound.tolerance(*args, activation)).all()


@pytest.mark.parametrize("pair", PAIRS, ids="·".join)
def test_ragged_products_stay_within_the_bound(pair: tuple[str, str], poisoned_empty: None) -> None:
    args = call(9, 37, 75, pair)
    for path in ("persistent", "two halves", "split in two"):
        assert_within(args, launched(args, PATHS[path]))


@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_products_with_and_without_blocks_of_scales(path: str, poisoned_empty: None) -> None:
    for pair in PAIRS[:2]:
        args = call(9, 37, 75, pair)
        assert_within(args, launched(args, PATHS[path]))


def test_a_wide_tile_ends_in_two_pieces(poisoned_empty: None) -> None:
    args = call(5, 300, 30, PAIRS[0])
    assert_within(args, launched(args, SMALL._replace(block_n=256)))


@pytest.mark.parametrize("path", PATHS)
def test_small_and_empty_products(path: str, poisoned_empty: None) -> None:
    for shape in ((1, 1, 1), (1, 50, 33), (33, 1, 64), (5, 7, 0)):
        args = call(*shape, PAIRS[2 + sum(shape) % 3])
        assert_within(args, launched(args, PATHS[path]))


def test_fewer_programs_than_tiles_make_all_of_them(monkeypatch: pytest.MonkeyPatch, poisoned_empty: None) -> None:
    # Three units with as many programs as fit: 5 x 4 tiles in rounds, the last one incomplete.
    monkeypatch.setattr(kernels, "gpu_of", lambda target: GPUS["sm_90"]._replace(units=3))
    monkeypatch.setattr(kernels.model, "residents", lambda config, product, target: 1)
    args = call(70, 60, 20, PAIRS[0])
    assert torch.equal(launched(args, PATHS["persistent"]), launched(args, SMALL))


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("path", ["one program a tile", "split in two"])
def test_activation_is_applied_once_to_the_whole_sum(path: str, activation: str) -> None:
    args = call(20, 24, 70, PAIRS[0])
    with np.errstate(over="ignore"):  # e^-x of a large negative x, whose reciprocal is the zero that is meant
        assert_within(args, launched(args, PATHS[path], activation), activation)


def test_integer_sums_are_the_same_however_they_are_split() -> None:
    args = call(5, 20, 300, ("int8/row", "int8/row"))
    whole = launched(args, SMALL)
    for split in (2, 3, 5, 32):
        assert torch.equal(launched(args, SMALL._replace(split_k=split)), whole)


def test_a_split_sum_repeats_to_the_bit() -> None:
    args = call(5, 20, 300, ("e4m3fn/row", "e4m3fn/row"))
    config = SMALL._replace(split_k=4)
    assert torch.equal(launched(args, config), launched(args, config))


TURNED = ("", "a", "b", "ab")


def in_layout(args: tuple[Any, ...], turned: str) -> tuple[Any, ...]:
    """The call with operands that are aligned for tensor descriptors, as the layouts of a linear layer have them."""
    a, a_scale, b, *rest = args
    a = a.t().contiguous().t() if "a" in turned else a
    b = b.t().contiguous().t() if "b" in turned else b
    return (a, a_scale, b, *rest)


@pytest.mark.parametrize("turned", TURNED)
def test_tensor_descriptors_give_the_bits_of_pointers(turned: str, poisoned_empty: None) -> None:
    for pair, path in (
        (PAIRS[0], "two halves, persistent"),
        (PAIRS[1], "split in two"),
        (("nf4", "nf4/row"), "persistent"),
    ):
        args = in_layout(call(16, 48, 80, pair), turned)
        assert kernels.is_aligned(args[0])
        assert kernels.is_aligned(args[2])
        plain = launched(args, PATHS[path])
        assert torch.equal(launched(args, PATHS[path]._replace(tma=True)), plain), path
        assert_within(args, plain)


def test_descriptors_of_ragged_rows_read_zeros_beyond_the_edge(poisoned_empty: None) -> None:
    args = call(5, 19, 48, PAIRS[0])  # rows of 48 bytes: aligned, and no multiple of a block
    assert torch.equal(launched(args, SMALL._replace(tma=True)), launched(args, SMALL))


def test_alignment_is_what_a_tensor_descriptor_needs() -> None:
    codes = torch.zeros((64, 96), dtype=torch.uint8)
    assert kernels.is_aligned(codes)
    assert kernels.is_aligned(codes.t())
    assert kernels.is_turned(codes.t())
    assert not kernels.is_turned(codes)
    assert not kernels.is_aligned(codes[:, 1:])
    assert not kernels.is_aligned(codes[:, ::2])
    assert not kernels.is_aligned(torch.zeros((64, 90), dtype=torch.uint8))
    assert not kernels.is_aligned(codes[:, :0])
