"""The suite `recipes`: what is chosen, the order of the runs, work that is shared and taken up again."""

from __future__ import annotations

import dataclasses

import pytest

from narrowgauge.bench.recipes import choose, plan, run_all
from narrowgauge.bench.recipes_run import RecipeRun, RecipeSettings, definition
from narrowgauge.bench.run_lock import exclusive
from narrowgauge.nn import RECIPES, SLOTS, get_recipe, recipe


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> RecipeSettings:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    return RecipeSettings(
        dim=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        ffn_dim=32,
        seq_len=16,
        batch_size=2,
        steps=3,
        evaluations=1,
        curve_batches=1,
        final_windows=16,
        data=str(path),
    )


def test_all_recipes_are_chosen_between_the_baselines() -> None:
    columns = choose()
    assert list(columns)[:2] == ["fp32", "bf16"]
    assert list(columns)[-2:] == ["fp32-perturbed", "fp32-moved"]
    assert set(columns) == {"fp32", "bf16", "fp32-perturbed", "fp32-moved", *RECIPES}
    assert columns["fp32"] is None
    assert columns["fp8_row"] is RECIPES["fp8_row"]
    assert columns["bf16"] is RECIPES.get("bf16")


def test_recipes_of_ones_own_are_taken_from_files_and_schemes(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('every = "mxfp4"\ng = "mxfp8_e5m2"\nsource = "tried"\n')
    columns = choose(["fp8_row", str(path), "int8/1x32+sr"])
    assert list(columns) == ["fp32", "bf16", "fp8_row", "mine", "int8/1x32+sr", "fp32-perturbed", "fp32-moved"]
    assert columns["mine"] == recipe("mine", "tried", every="mxfp4", g="mxfp8_e5m2")
    assert {str(columns["int8/1x32+sr"].slots[slot]) for slot in SLOTS} == {"int8/1x32+sr"}


def test_a_name_stands_for_one_recipe(tmp_path) -> None:
    path = tmp_path / "fp8_row.toml"
    path.write_text('every = "mxfp4"\n')
    with pytest.raises(ValueError, match="has the name of another recipe, 'fp8_row'"):
        choose([str(path)])
    assert list(choose(["fp8_row", "fp8_row"])).count("fp8_row") == 1
    (tmp_path / "fp32-perturbed.toml").write_text('every = "mxfp4"\n')
    with pytest.raises(ValueError, match="fp32-perturbed is the name of a baseline"):
        choose([str(tmp_path / "fp32-perturbed.toml")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fp8_rwo", r"unknown name 'fp8_rwo'; nearest: fp8_row.*nor a scheme"),
        ("e4m3fn/rwo", "nor a scheme"),
        ("e4m3fn+what", "nor a scheme"),
    ],
)
def test_what_is_no_recipe_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose([text])


def test_comparisons_are_complete_early() -> None:
    said = definition(get_recipe("fp8_row"))
    columns = {"fp32": None, "fp8_row": get_recipe("fp8_row")}
    assert plan(columns, 2) == [
        RecipeRun(seed, name, text) for seed in (0, 1) for name, text in (("fp32", ""), ("fp8_row", said))
    ]
    with pytest.raises(ValueError, match="seeds: expected at least 1, got 0"):
        plan(columns, 0)


COLUMNS = {"fp32": None, "fp8_row": get_recipe("fp8_row")}


def test_all_runs_are_trained_once(settings, tmp_path) -> None:
    heard, runs = [], plan(COLUMNS, 2)
    done = run_all(runs, COLUMNS, settings, tmp_path, finished=lambda result, count: heard.append((result.run, count)))
    assert heard == [(run, count) for count, run in enumerate(runs, start=1)]
    assert run_all(runs, COLUMNS, settings, tmp_path, finished=lambda *_: pytest.fail("trained again")) == done


def test_a_changed_recipe_is_trained_anew_and_the_others_are_kept(settings, tmp_path) -> None:
    heard = []
    run_all(plan(COLUMNS, 1), COLUMNS, settings, tmp_path)
    changed = {**COLUMNS, "fp8_row": recipe("fp8_row", every="e4m3fn")}
    done = run_all(plan(changed, 1), changed, settings, tmp_path, finished=lambda result, _: heard.append(result.run))
    assert [run.recipe for run in heard] == ["fp8_row"]
    assert [result.run for result in done] == plan(changed, 1)


def test_what_another_process_trains_is_left_to_it(settings, tmp_path) -> None:
    first, second = plan(COLUMNS, 1)
    with exclusive(tmp_path / second.name / "run.lock"):
        assert [r.run for r in run_all([first, second], COLUMNS, settings, tmp_path)] == [first]
    assert [r.run for r in run_all([first, second], COLUMNS, settings, tmp_path)] == [first, second]


def test_a_run_that_raises_is_told_and_the_others_go_on(settings, tmp_path, monkeypatch) -> None:
    broken = {"fp32": None, "bad": recipe("bad", every="int8/row"), "fp8_row": get_recipe("fp8_row")}
    from narrowgauge.bench import recipes_run

    real = recipes_run.convert

    def convert(model, chosen):
        if chosen.name == "bad":
            raise RuntimeError("cannot")
        return real(model, chosen)

    monkeypatch.setattr(recipes_run, "convert", convert)
    heard, runs = [], plan(broken, 1)
    done = run_all(runs, broken, settings, tmp_path, failed=lambda run, error: heard.append((run.recipe, str(error))))
    assert heard == [("bad", "cannot")]
    assert [result.run.recipe for result in done] == ["fp32", "fp8_row"]
    with pytest.raises(RuntimeError, match="cannot"):
        run_all(runs, broken, settings, tmp_path)


def test_folder_of_other_settings_is_refused(settings, tmp_path) -> None:
    run_all(plan(COLUMNS, 1)[:1], COLUMNS, settings, tmp_path)
    other = dataclasses.replace(settings, beta2=0.5)
    with pytest.raises(ValueError, match=r"other settings \(beta2: 0.95 there, 0.5 here\)"):
        run_all(plan(COLUMNS, 1), COLUMNS, other, tmp_path)
