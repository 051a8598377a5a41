"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowgauge.atomic_files import partial_name, replacing


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"
    with replacing(path) as partial:
        assert partial == partial_name(path)
        partial.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert [file.name for file in path.parent.iterdir()] == ["a"]


def test_an_error_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    partial_name(path).write_text("half")
    with pytest.raises(ZeroDivisionError), replacing(path):
        1 / 0  # noqa: B018
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a"
    partial_name(path).write_text("a long text that was never finished")
    with replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
