from pathlib import Path

import pytest

from narrowgauge.train.checkpoint_names import age_of, generations, older


@pytest.mark.parametrize(
    ("age", "name"), [(0, "last"), (1, "last.previous"), (2, "last.previous-2"), (12, "last.previous-12")]
)
def test_names_by_age(age: int, name: str) -> None:
    assert older(Path("a/last"), age) == Path("a") / name
    assert age_of(Path("a/last"), Path("a") / name) == age


def test_what_is_there_newest_first_gaps_and_strangers_left_out(tmp_path: Path) -> None:
    for name in ("last.previous-10", "last.previous-2", "last", "last.previous-old", "lasting.previous", "other"):
        (tmp_path / name).mkdir()
    assert [path.name for path in generations(tmp_path / "last")] == ["last", "last.previous-2", "last.previous-10"]
    assert generations(tmp_path / "none") == []
