from pathlib import Path

import pytest
import torch

from narrowgauge.train import save_checkpoint
from narrowgauge.train.find_checkpoint import find_checkpoint


def save(path: Path, step: int, keep: int = 3) -> None:
    save_checkpoint(path, {"model": {"w": torch.full((2,), float(step))}, "loop": {"step": step}}, keep=keep)


def damage(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def test_nothing_was_ever_written(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "nowhere") is None
    assert find_checkpoint(tmp_path) is None


def test_the_newest_whole_one_is_found_and_the_others_are_named(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path / "last", step)
    found = find_checkpoint(tmp_path / "last")
    assert found is not None
    assert (found.path, found.step, found.skipped) == (tmp_path / "last", 3, {})
    damage(tmp_path / "last")
    (tmp_path / "last.previous" / "state.json").unlink()
    found = find_checkpoint(tmp_path / "last")
    assert found is not None
    assert (found.path, found.step) == (tmp_path / "last.previous-2", 1)
    assert list(found.skipped) == [tmp_path / "last", tmp_path / "last.previous"]
    assert "model.safetensors is damaged" in found.skipped[tmp_path / "last"]
    assert "no checkpoint at" in found.skipped[tmp_path / "last.previous"]
    assert str(found).startswith(f"step 1: {tmp_path / 'last.previous-2'}\nskipped {tmp_path / 'last'}: path:")


def test_a_kill_between_two_names_leaves_the_older_one_to_be_found(tmp_path: Path) -> None:
    save(tmp_path / "last", 4)
    (tmp_path / "last").rename(tmp_path / "last.previous")
    found = find_checkpoint(tmp_path / "last", "newest")
    assert found is not None
    assert (found.path, found.step) == (tmp_path / "last.previous", 4)


def test_of_a_runs_folder_the_latest_step_is_the_newest(tmp_path: Path) -> None:
    save(tmp_path / "b", 9)
    save(tmp_path / "a", 3)
    (tmp_path / "plots").mkdir()
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.path == tmp_path / "b"
    (tmp_path / "a" / "state.json").write_text("{")  # nobody knows of which step
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, list(found.skipped)) == (tmp_path / "b", [tmp_path / "a"])


def test_the_newest_alone_is_refused_when_it_is_damaged_and_the_one_before_offered(tmp_path: Path) -> None:
    save(tmp_path / "last", 1)
    save(tmp_path / "last", 2)
    damage(tmp_path / "last")
    offer = r"is damaged.*; the checkpoint before it, of step 1, is whole: .*last\.previous$"
    with pytest.raises(ValueError, match=offer):
        find_checkpoint(tmp_path / "last", "newest")


def test_when_all_are_damaged_the_error_says_so(tmp_path: Path) -> None:
    save(tmp_path / "last", 1)
    damage(tmp_path / "last")
    with pytest.raises(ValueError, match=r"folder: every checkpoint is damaged\npath: .*model.safetensors is damaged"):
        find_checkpoint(tmp_path)


def test_another_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode: expected auto or newest, got 'last'"):
        find_checkpoint(tmp_path, "last")
