"""The picture of the suite `recipes`."""

from __future__ import annotations

import pytest

from narrowgauge.bench.recipes_plot import kind_of, plot
from narrowgauge.bench.recipes_report import compare
from narrowgauge.bench.recipes_run import RecipeResult, RecipeRun, RecipeSettings
from narrowgauge.nn import recipe

SETTINGS = RecipeSettings(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, seq_len=16, steps=4)
COLUMNS = {
    "fp32": None,
    "bf16": None,
    "eight": recipe("eight", every="int8/row"),
    "six": recipe("six", every="mxfp6_e2m3"),
    "four": recipe("four", every="mxfp4"),
    "fp32-perturbed": None,
}


def results(**losses) -> list[RecipeResult]:
    return [
        RecipeResult(
            run=RecipeRun(seed, name.replace("_", "-")),
            final_loss=loss,
            note="",
            train_curve=([2, 4], [3.0, 2.5]),
            val_curve=([4], [2.6]),
            step_ms=10.0,
            seconds=1.0,
            machine={},
            sqnr_db={},
        )
        for name, values in losses.items()
        for seed, loss in enumerate(values)
    ]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture_is_written(ending: str, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    runs = results(fp32=(2.0, 4.0), bf16=(2.0, 4.01), eight=(2.01, 4.0), six=(1.9, 3.9), four=(9.0, None),
                   fp32_perturbed=(2.001, 4.0))  # fmt: skip
    path = plot(compare(runs, COLUMNS), runs, SETTINGS, tmp_path / "new" / f"gaps.{ending}")
    assert path.stat().st_size > 5000


def test_single_seed_is_drawn_without_errors(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    runs = results(fp32=(2.0,), eight=(2.01,))
    assert plot(compare(runs, COLUMNS), runs, SETTINGS, tmp_path / "gaps.png").exists()


def test_picture_of_nothing_is_refused(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    runs = results(fp32=(2.0,), eight=(None,))
    with pytest.raises(ValueError, match="nothing can be compared"):
        plot(compare(runs, COLUMNS), runs, SETTINGS, tmp_path / "gaps.png")


def test_color_is_that_of_the_narrowest_operand() -> None:
    runs = results(fp32=(2.0,), eight=(2.0,), six=(2.0,), four=(2.0,))
    kinds = [kind_of(c) for c in compare(runs, COLUMNS)]
    assert kinds == ["baseline", "8 bits and more", "5 to 7 bits", "4 bits and fewer"]
