"""Limits, verdicts and their reasons; the JSON file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from narrowgauge.bench.recipes_report import by_gap, compare, limit_of, noise_floor, report, slot_bits, unigram_loss
from narrowgauge.bench.recipes_run import RecipeResult, RecipeRun, RecipeSettings
from narrowgauge.bench.report import write_json
from narrowgauge.nn import get_recipe, recipe
from narrowgauge.train import ByteCorpus

WIDE = recipe("wide", "a paper", every="int8/row")
NARROW = recipe("narrow", every="mxfp4", g=None, caveat="four bits are few", advice="a warm start")
COLUMNS = {"fp32": None, "bf16": None, "wide": WIDE, "narrow": NARROW, "fp32-perturbed": None, "fp32-moved": None}


def result(seed: int, name: str, loss: float | None, step_ms: float = 10.0, sqnr=None) -> RecipeResult:
    return RecipeResult(
        run=RecipeRun(seed, name),
        final_loss=loss,
        note="" if loss is not None else "loss is nan at step 3",
        train_curve=([2, 4], [3.0, 2.5]),
        val_curve=([4], [2.6]),
        step_ms=step_ms,
        seconds=1.0,
        machine={"cpu": "some"},
        sqnr_db=sqnr or {},
    )


def losses(name: str, *values, **more) -> list[RecipeResult]:
    return [result(seed, name, loss, **more) for seed, loss in enumerate(values)]


FP32 = losses("fp32", 2.0, 4.0)


def named(results, name: str):
    return next(c for c in compare(results, COLUMNS) if c.recipe == name)


@pytest.mark.parametrize(
    ("name", "values", "verdict", "is_clear"),
    [
        ("wide", (2.010, 4.020), "within 1 %", True),
        ("wide", (2.030, 4.060), "above 1 %", True),
        ("wide", (2.016, 4.060), "above 1 %", False),
        ("wide", (1.900, 3.800), "within 1 %", True),
        ("wide", (2.000, None), "diverged", False),
        ("narrow", (2.060, 4.120), "within 5 %", True),
        ("narrow", (2.200, 4.400), "above 5 %", True),
        ("bf16", (2.200, 4.400), "baseline", False),
        ("fp32-perturbed", (2.200, 4.400), "chance alone", False),
    ],
)
def test_verdicts(name: str, values, verdict: str, is_clear: bool) -> None:
    c = named([*FP32, *losses(name, *values)], name)
    assert (c.verdict, c.is_clear) == (verdict, is_clear)


def test_gap_is_paired_by_seed_with_error_and_step_ratio() -> None:
    c = named([*FP32, *losses("wide", 2.02, 4.0, step_ms=25.0)], "wide")
    assert c.gaps_percent == pytest.approx((1.0, 0.0))
    assert c.mean_gap_percent == pytest.approx(0.5)
    assert c.standard_error_percent == pytest.approx(0.5)
    assert (c.step_ms, c.step_ratio, c.source) == (25.0, 2.5, "a paper")


def test_reason_names_divergence_caveat_and_noisiest_operand() -> None:
    sqnr = {"x_fprop": 18.0, "w_fprop": 15.25}
    c = named([*FP32, *losses("narrow", 2.2, 4.4, sqnr=sqnr)], "narrow")
    assert c.why == "four bits are few; noisiest operand: w_fprop, 15.2 dB; not done here: a warm start"
    gone = named([*FP32, *losses("narrow", 2.2, None)], "narrow")
    assert gone.why == "seed 1: loss is nan at step 3; four bits are few; not done here: a warm start"
    assert named([*FP32, *losses("narrow", 2.0, 4.0, sqnr=sqnr)], "narrow").why == ""


def test_bits_are_those_of_the_quantised_slots() -> None:
    assert slot_bits(None) == {}
    assert slot_bits(get_recipe("int8_switchback")) == dict.fromkeys(("x_fprop", "w_fprop", "g_dgrad", "w_dgrad"), 8)
    assert set(slot_bits(NARROW).values()) == {4}
    assert slot_bits(recipe("learned", weight_map="lsq4", g="int8")) == {
        "w_fprop": 4,
        "w_dgrad": 4,
        "g_dgrad": 8,
        "g_wgrad": 8,
    }
    assert slot_bits(recipe("grid", w_fprop="e4m3fn", update="int4+sr")) == {"w_fprop": 8, "update": 4}


@pytest.mark.parametrize(("bits", "limit"), [((8, 8), 1.0), ((16,), 1.0), ((), 1.0), ((6, 8), 5.0), ((4, 16), 5.0)])
def test_narrowest_operand_sets_the_limit(bits, limit: float) -> None:
    assert limit_of("some", {str(slot): b for slot, b in enumerate(bits)}) == limit
    assert limit_of("bf16", {"x_fprop": 16}) is None


def test_only_seeds_with_fp32_are_compared() -> None:
    runs = [FP32[0], *losses("wide", 2.0, 4.0)]
    assert [(c.recipe, c.seeds) for c in compare(runs, COLUMNS)] == [("fp32", (0,)), ("wide", (0,))]
    assert compare(losses("wide", 2.0), COLUMNS) == []


def test_order_is_baselines_then_gaps_then_diverged() -> None:
    columns = {**COLUMNS, "gone": WIDE}
    runs = [*FP32, *losses("narrow", 2.2, 4.4), *losses("wide", 2.1, 4.2), *losses("gone", None, 4.0)]
    runs += losses("fp32-perturbed", 2.3, 4.6)
    order = [c.recipe for c in by_gap(compare(runs, columns))]
    assert order == ["fp32", "fp32-perturbed", "wide", "narrow", "gone"]


def test_noise_floor_is_the_root_mean_square_gap() -> None:
    runs = [*FP32, *losses("fp32-perturbed", 2.006, 4.016)]
    runs += losses("fp32-moved", 2.02, None)
    assert noise_floor(compare(runs, COLUMNS)) == pytest.approx(
        {"fp32-perturbed": math.sqrt((0.3**2 + 0.4**2) / 2), "fp32-moved": 1.0}
    )
    assert noise_floor(compare(FP32, COLUMNS)) == {}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ab" * 1000)
    return path


def test_unigram_loss_is_what_byte_frequencies_give(text) -> None:
    corpus = ByteCorpus(text)
    seen = np.array([901, 901]) / (1800 + 256)
    assert unigram_loss(corpus) == pytest.approx(-np.log(seen).mean())


def test_json_has_everything(text, tmp_path) -> None:
    settings = RecipeSettings(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, seq_len=16, data=str(text))
    runs = [*FP32, *losses("wide", 2.002, None), *losses("fp32-perturbed", 2.0, 4.0)]
    path = write_json(tmp_path / "new" / "out.json", report(runs, 2, settings, COLUMNS, {"seed 0, bad": "why"}))
    content = json.loads(path.read_text())
    assert content["suite"] == "recipes"
    assert content["settings"]["beta2"] == 0.95
    assert (content["pending_runs"], content["failed"]) == (2, {"seed 0, bad": "why"})
    assert content["noise_floor_percent"] == {"fp32-perturbed": 0.0}
    assert content["machines"] == [{"cpu": "some"}]
    assert [c["verdict"] for c in content["comparisons"]] == ["baseline", "chance alone", "diverged"]
    assert content["comparisons"][2]["bits"]["x_fprop"] == 8
    assert content["runs"][3]["final_loss"] is None
    assert content["runs"][0]["train_curve"] == [[2, 4], [3.0, 2.5]]


def test_operands_that_lose_nothing_have_no_ratio() -> None:
    outside = losses("narrow", 3.0, 6.0, sqnr={"w_fprop": None, "x_fprop": 12.0, "w_dgrad": math.inf})
    found = named([*FP32, *outside], "narrow")
    assert found.sqnr_db == {"x_fprop": 12.0}
    assert "noisiest operand: x_fprop, 12.0 dB" in found.why
