"""Operands with stages: the bits of the reference, whatever the stage; layers under them keep the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowgauge.formats.operand import operand_reference, parse_operand
from narrowgauge.formats.stages import Draw
from narrowgauge.kernels._block_gemm_checks import takes_scales
from narrowgauge.nn import QuantLinear, operand, recipe
from narrowgauge.nn.operand import dequantized, gemm, make_both, make_operand, restored
from narrowgauge.numerics import check_module

SLOT_TEXTS = (
    "mxfp4:floor+h32", "nvfp4+rht16", "mxfp4:rceil+sr+rht64fresh+gain0.75", "int8/row+h128", "uint8/row+affine",
    "uint4+sr+affine", "e2m1fn/row+occ0.99", "e2m1fn/1x32+sr+occ0.9+rht8fresh", "e4m3fn/row+gain0.5",
)  # fmt: skip


def values(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    x = rng.standard_normal((rows, cols)) * np.exp(rng.standard_normal((rows, 1)))
    return x.astype(np.float32)


@pytest.mark.parametrize("text", SLOT_TEXTS)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 9), cols=st.integers(1, 140), seed=st.integers(0, 2**31))
def test_values_are_those_of_the_reference(text: str, rows: int, cols: int, seed: int) -> None:
    x, draw = values(np.random.default_rng(seed), rows, cols), Draw(seed, 7, 11)
    expected = operand_reference(x, text, draw)
    operand = make_operand(torch.from_numpy(x), text, draw)
    actual = dequantized(operand, torch.float64).numpy()
    # Codes, scales and what stages keep are equal; the last float32 product and sum may round.
    np.testing.assert_allclose(actual, expected, rtol=3e-7, atol=1e-6 * float(np.abs(expected).max(initial=0.0)))


@pytest.mark.parametrize("text", SLOT_TEXTS)
def test_text_reads_back(text: str) -> None:
    spec = parse_operand(text)
    assert parse_operand(str(spec)) == spec


@pytest.mark.parametrize("text", ["int8/row+h16", "int8/row+rht32", "int8/row+rht8fresh"])
def test_a_rotation_can_be_turned_back(text: str) -> None:
    x, draw = values(np.random.default_rng(0), 6, 50), Draw(3, 4, 5)
    operand = make_operand(torch.from_numpy(x), text, draw)
    back = restored(operand, text, draw, 50, torch.float32)
    assert back.shape == (6, 50)
    assert float((back - torch.from_numpy(x)).norm() / np.linalg.norm(x)) < 0.01


def test_rotation_spreads_an_outlier() -> None:
    x = torch.randn(8, 64)
    x[:, 5] = 60.0
    texts = ("int4/row", "int4/row+h64")
    plain, turned = (restored(make_operand(x, text, Draw()), text, Draw(), 64, torch.float32) for text in texts)
    others = torch.arange(64) != 5
    assert float((turned - x)[:, others].square().mean()) < 0.5 * float((plain - x)[:, others].square().mean())


RECIPES = {
    "rotated": recipe("rotated", every="mxfp4+h32"),
    "nvfp4": recipe("nvfp4", x="nvfp4", w="nvfp4_2d", g_dgrad="nvfp4+sr", g_wgrad="nvfp4+sr+rht16",
                    x_wgrad="nvfp4+rht16"),
    "tseng": recipe("tseng", g="mxfp4:rceil+sr+rht64fresh+gain0.75", w_dgrad="mxfp4:rceil+sr+rht64fresh+gain0.75",
                    x_wgrad="mxfp4:rceil+sr+rht64fresh+gain0.75"),
    "affine": recipe("affine", x="int8", w="int8", g="uint8/row+sr+affine"),
    "occ": recipe("occ", x="e2m1fn/row+occ0.99", w="e2m1fn/row"),
    "mixed kinds": recipe("mixed kinds", x="int8/row", w="e4m3fn/row", g="e5m2/row"),
    "twice": recipe("twice", every="mxfp4", g="mxfp4+sr", requantize=True),
    "twice, rotated": recipe("twice, rotated", x_fprop="mxfp4+h32", w_fprop="mxfp4+h32", g_dgrad="mxfp4+sr",
                             w_dgrad="mxfp4+sr", g_wgrad="mxfp4+sr", x_wgrad="mxfp4+sr", requantize=True),
    "outputs": recipe("outputs", every="int8/32x32", out_fprop="int8/32x32", out_dgrad="int8/32x32+sr"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_layers_keep_the_contract(name: str) -> None:
    torch.manual_seed(0)
    report = check_module(QuantLinear(72, 40, recipe=RECIPES[name]), seeds=24)
    assert report.ok, report.table()


@pytest.mark.parametrize(("said", "done"), [
    ("mxfp4+h32", "mxfp4"), ("int8/row+gain0.5", "int8/row:percentile=90"), ("e2m1fn/row+occ0.9", "e2m1fn/row"),
])  # fmt: skip
def test_a_missing_stage_is_noticed(said: str, done: str) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(64, 32, recipe=recipe("done", x_fprop=done, w_fprop=done))
    report = check_module(layer, recipe("said", x_fprop=said, w_fprop=said))
    assert not report.ok


def test_operands_of_a_product_are_rotated_alike() -> None:
    with pytest.raises(ValueError, match="fprop: both operands are rotated alike"):
        recipe("bad", x_fprop="int8/row+h16", w_fprop="int8/row")


@pytest.mark.parametrize("text", ["int8+h3", "int8+affine", "int8+occ2", "int8+nothing", "uint8/1x16+affine"])
def test_options_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"option|hadamard|occ|scheme"):
        parse_operand(text)


PAIRS = (
    ("e4m3fn/row", "e4m3fn/row"),
    ("e5m2/1x128+sr", "e4m3fn/128x128+sr"),
    ("mxfp8", "mxfp4+sr"),
    ("nvfp4", "nvfp4"),
)


@pytest.mark.parametrize(("text", "turned"), PAIRS)
def test_both_operands_of_one_read_are_those_of_two(monkeypatch: pytest.MonkeyPatch, text: str, turned: str) -> None:
    x, draws = torch.randn(96, 160), (Draw(3, 4), Draw(3, 9))
    assert make_both(x, text, turned, *draws) is None  # nothing to gain on a CPU
    monkeypatch.setattr("narrowgauge.nn.operand.one_read_pays", lambda x: True)
    made = make_both(x, text, turned, *draws)
    assert made is not None
    for actual, expected in zip(
        made, (make_operand(x, text, draws[0]), make_operand(x.t(), turned, draws[1])), strict=True
    ):
        assert actual.scheme == expected.scheme
        for mine, other in zip(actual[:3], expected[:3], strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("texts", [(None, "int8"), ("int8/row+h16", "int8"), ("int8", "int16/row")])
def test_other_operands_are_made_one_by_one(
    monkeypatch: pytest.MonkeyPatch, texts: tuple[str | None, str | None]
) -> None:
    monkeypatch.setattr("narrowgauge.nn.operand.one_read_pays", lambda x: True)
    assert make_both(torch.randn(32, 32), *texts, Draw(), Draw()) is None


@pytest.mark.parametrize("pair", [("mxfp8", "mxfp4"), ("nvfp4", "nvfp4"), ("mxfp8_e5m2", "mxfp8")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_products_by_blocks_are_those_of_the_scaled_gemm(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str], dtype: torch.dtype
) -> None:
    """On GPUs whose matrix units take block scales; the CPU's implementation of that operator stands in for them."""
    a, b = (make_operand(torch.randn(rows, 96), text, Draw()) for rows, text in zip((5, 7), pair, strict=True))
    bias = torch.randn(7)
    expected = gemm(a, b, bias, dtype)
    calls: list[object] = []
    monkeypatch.setattr("narrowgauge.nn.operand.by_blocks", lambda *sides: calls.append(sides) or True)
    torch.testing.assert_close(gemm(a, b, bias, dtype), expected, rtol=1e-6, atol=1e-6)
    assert calls == [(*pair, torch.device("cpu"))]


def test_which_schemes_matrix_units_take_with_their_scales() -> None:
    assert takes_scales("mxfp8", "mxfp4", "sm_100")
    assert takes_scales("nvfp4", "nvfp4", "sm_120")
    assert not takes_scales("nvfp4", "nvfp4", "gfx950")
    assert not takes_scales("mxfp8", "mxfp8", "sm_90")
    assert not takes_scales("mxfp8", "nvfp4", "sm_100")
    assert not takes_scales("e4m3fn/1x32", "mxfp8", "sm_100")


def test_compilers_ask_what_the_device_multiplies_and_keep_the_answer() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def answer(x: torch.Tensor) -> torch.Tensor:
        return x + (1.0 if operand._by_blocks("mxfp8", "mxfp8", x.device) else 2.0)

    assert float(answer(torch.zeros(()))) == 2.0
