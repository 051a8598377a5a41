"""The suite `quantize` checks before and after it times, compares fairly, and says what is missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from narrowgauge.bench import quantize
from narrowgauge.bench.peers import PEERS
from narrowgauge.bench.poison import WrongResult
from narrowgauge.bench.quantize import run_suite

QUICK = {"shapes": ["64x64"], "repetitions": 9, "compiled": False}


def in_torch(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.float().abs().amax(dim=1, keepdim=True) / 448.0
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


@pytest.fixture(scope="module")
def result():
    return run_suite(["e4m3fn/row", "e4m3fn/row+sr"], functions={"mine": in_torch},
                     ops=("quantize", "dequantize", "pair"), **QUICK)  # fmt: skip


@pytest.fixture(scope="module")
def rows(result):
    return {row.name.removeprefix("64x64: "): row for row in result.rows}


def test_all_stand_in_one_table(rows) -> None:
    assert [name for name in rows if " by " not in name] == [
        "clone", "copy_", "e4m3fn/row", "dequantize e4m3fn/row", "pair e4m3fn/row",
        "e4m3fn/row+sr", "dequantize e4m3fn/row+sr", "pair e4m3fn/row+sr",
    ]  # fmt: skip
    assert {"e4m3fn/row by mine", "e4m3fn/row by torch eager", "pair e4m3fn/row by two"} <= rows.keys()


def test_every_row_has_a_time_a_rate_and_a_note(rows) -> None:
    for row in rows.values():
        assert row.figures["milliseconds"] > 0
        assert row.figures["gb_per_s"] > 0
        assert row.note


def test_shares_are_of_the_fastest_copy(rows, result) -> None:
    assert rows["clone"].ratio == 1.0
    copies = [rows[name].figures["copy_percent"] for name in ("clone", "copy_")]
    assert max(copies) == pytest.approx(100.0)
    own = rows["e4m3fn/row"].figures
    assert own["copy_percent"] == pytest.approx(100 * own["gb_per_s"] / result.ceilings["copy_gb_per_s"])


def test_bytes_are_those_that_have_to_be_moved(rows) -> None:
    figures = rows["e4m3fn/row"].figures
    moved = 64 * 64 * (4 + 1) + 64 * 4
    assert figures["gb_per_s"] == pytest.approx(moved / figures["milliseconds"] * 1e-6)
    figures = rows["dequantize e4m3fn/row"].figures
    assert figures["gb_per_s"] == pytest.approx(moved / figures["milliseconds"] * 1e-6, rel=0.02)


def test_stochastic_rounding_stands_against_nearest(rows) -> None:
    expected = rows["e4m3fn/row+sr"].timing.median / rows["e4m3fn/row"].timing.median
    assert rows["e4m3fn/row+sr"].figures["times_rn"] == pytest.approx(expected)
    assert [name for name, row in rows.items() if "times_rn" in row.figures] == ["e4m3fn/row+sr"]


def test_peers_give_the_same_codes(rows) -> None:
    for name in ("ml_dtypes", "gfloat"):
        assert rows[f"e4m3fn/row by {name}"].figures["codes_equal_percent"] == 100.0
    assert rows["e4m3fn/row by mine"].figures["codes_equal_percent"] > 99.9


def test_what_is_not_timed_is_named_with_the_reason(result, rows) -> None:
    assert result.skipped["e4m3fn/row, compiled"] == "left out as asked"
    assert "random numbers" in result.skipped["e4m3fn/row+sr by mine"]
    for name in PEERS:
        row = f"e4m3fn/row by {name}"
        assert row in rows or row in result.skipped or result.skipped[name] == "is not installed"


def test_shapes_models_and_dtypes_can_be_chosen() -> None:
    told = []
    shapes = ["3x5", "2x32", "3x5"]
    result = run_suite(["int8/row", "int8/row"], shapes=shapes, dtype="bfloat16", peers=False, repetitions=9,
                       compiled=False, save=lambda so_far: told.append(len(so_far.rows)))  # fmt: skip
    assert [row.name for row in result.rows] == [
        f"{shape}: {name}" for shape in ("3x5", "2x32") for name in ("clone", "copy_", "int8/row")
    ]
    assert told == [3, 6]
    assert result.settings["dtype"] == "bfloat16"


@pytest.mark.parametrize("scheme", ["int8/row", "mxfp8", "nvfp4", "rf8/row", "e4m3fn/1x128+sr"])
def test_every_kind_of_scheme_can_be_timed(scheme: str) -> None:
    assert len(run_suite([scheme], peers=False, ops=("quantize", "dequantize"), **QUICK).rows) == 4


class Lazy:
    """Right until it was called often enough to be in the middle of the timing; then it repeats itself."""

    def __init__(self) -> None:
        self.calls = 0
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if self.calls < 8 or self.kept is None:
            self.kept = in_torch(x)
        return self.kept


def test_what_turns_wrong_while_it_is_timed_has_no_speed() -> None:
    with pytest.raises(WrongResult, match=r"e4m3fn/row by lazy: scale: .* are wrong"):
        run_suite(["e4m3fn/row"], functions={"lazy": Lazy()}, peers=False, **QUICK)


def test_nothing_is_timed_where_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "time_interleaved", lambda *_, **__: pytest.fail("timed a wrong result"))

    def zeros(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(x.shape, dtype=torch.uint8), torch.zeros(x.shape[0], 1)

    with pytest.raises(WrongResult, match="scale: 64 of 64 are wrong"):
        run_suite(["e4m3fn/row"], functions={"zeros": zeros}, peers=False, **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "size: expected at least 1, got 0"), ({"dtype": "float64"}, "dtype: got 'float64', accepted"),
     ({"ops": ["transpose"]}, "op: got 'transpose', accepted: quantize, dequantize, pair"),
     ({"schemes": []}, "schemes: expected at least one"), ({"shapes": ["4"]}, "shape: got '4', accepted: MxK"),
     ({"schemes": ["int8+sr"], "functions": {"f": in_torch}}, "functions: nothing to compare with: .* random numbers"),
     ({"ops": ["pair"], "functions": {"f": in_torch}}, "functions: .* timed by the op quantize")],
)  # fmt: skip
def test_mistakes_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_suite(**options)


@pytest.mark.slow
def test_compiled_quantizers_are_timed_after_their_bits_were_compared() -> None:
    result = run_suite(["e4m3fn/row", "int8/row"], **{**QUICK, "compiled": True})
    names = [row.name.removeprefix("64x64: ") for row in result.rows]
    assert {"e4m3fn/row, compiled", "int8/row, compiled", "e4m3fn/row by torch compiled"} <= set(names)
