"""`narrowgauge recipes`: the list, one in full, TOML that reads back, the page that is committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowgauge.cli import main
from narrowgauge.nn import RECIPES, get_recipe

ROOT = Path(__file__).parent.parent


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["recipes", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys)
    assert status == 0
    assert all(name in out for name in RECIPES)
    listed = json.loads(run(capsys, "--json")[1])
    assert [recipe["name"] for recipe in listed] == list(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_toml_reads_back(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(run(capsys, name, "--toml")[1], encoding="utf-8")
    assert get_recipe(str(path)) == RECIPES[name]
    status, out, _ = run(capsys, str(path))
    assert status == 0
    assert f"ng.convert(model, {str(path)!r})" in out


def test_one_in_full_shows_its_products_and_what_belongs_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "gupta16")
    assert "dW = dYᵀ·X" in out
    assert "int16f24:static=1.0+sr" in out
    assert "advice: GridWeights" in out


def test_mistakes_are_answered_with_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = run(capsys, "fp8_rows")
    assert status == 2
    assert "nearest: fp8_row" in err
    bad = tmp_path / "bad.toml"
    bad.write_text('x_fprops = "int8"', encoding="utf-8")
    status, _, err = run(capsys, str(bad))
    assert status == 2
    assert "bad.toml: recipe: unknown 'x_fprops'; did you mean 'x_fprop'?" in err


def test_the_page_is_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert run(capsys, "--markdown")[1] == page, "narrowgauge recipes --markdown > docs/recipes.md"
