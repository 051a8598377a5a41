import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from narrowgauge.train import checkpoint, load_checkpoint, save_checkpoint


def sections(value: float) -> dict[str, Any]:
    return {
        "model": {"w": torch.full((3, 2), value)},
        "optimizer": {"state": {}},
        "loop": {"step": int(value)},
    }


class Killed(BaseException):
    """Stands for a kill: nothing handles it."""


def test_a_checkpoint_is_a_folder_that_other_tools_can_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", sections(7))
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["model.safetensors", "state.json"]
    with safe_open(tmp_path / "a" / "model.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["w"]
    state = json.loads((tmp_path / "a" / "state.json").read_text())
    assert (state["format"], state["version"]) == ("narrowgauge-checkpoint", 1)
    loaded = load_checkpoint(tmp_path / "a")
    assert loaded["loop"] == {"step": 7}
    assert torch.equal(loaded["model"]["w"], torch.full((3, 2), 7.0))


def test_saving_replaces_the_older_checkpoint_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        save_checkpoint(tmp_path / "a", sections(value))
    assert load_checkpoint(tmp_path / "a")["loop"]["step"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "runs" / "one" / "last", sections(1))
    assert load_checkpoint(tmp_path / "runs" / "one" / "last")["loop"]["step"] == 1


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_something_that_is_not_a_checkpoint_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("text")
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("text")
    with pytest.raises(ValueError, match=r"path: .*precious exists and is not a checkpoint"):
        save_checkpoint(path, sections(1))
    assert (path if kind == "file" else path / "thesis.tex").read_text() == "text"


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: no checkpoint at .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_every_truncation_and_every_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path / "a", sections(1))
    file = tmp_path / "a" / name
    original = file.read_bytes()
    content = original.rstrip()  # only the newline at the end of state.json may go
    damaged = [content[:size] for size in range(0, len(content), 7)]
    for index in range(0, len(content), 5):
        damaged.append(content[:index] + bytes([content[index] ^ 4]) + content[index + 1 :])
    for bad in damaged:
        file.write_bytes(bad)
        with pytest.raises(ValueError, match=r"path: .*(damaged|not a narrowgauge|has version)"):
            load_checkpoint(tmp_path / "a")
    file.write_bytes(original)
    assert load_checkpoint(tmp_path / "a")["loop"]["step"] == 1


def test_a_removed_file_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", sections(1))
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"path: .*model.safetensors is missing; the checkpoint is incomplete"):
        load_checkpoint(tmp_path / "a")


def test_a_file_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", sections(1))
    save_checkpoint(tmp_path / "b", sections(2))
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: its SHA-256"):
        load_checkpoint(tmp_path / "a")


def test_a_kill_at_any_step_of_writing_leaves_the_old_or_the_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer dies before each call that changes the disk, in turn; the next writer recovers."""
    calls = 0
    doomed = -1

    def dying(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == doomed:
                raise Killed
            return function(*args, **kwargs)

        return call

    disk_calls = [(os, "fsync"), (shutil, "rmtree"), (checkpoint, "save_file")]
    for owner, name in disk_calls + [(Path, name) for name in ("mkdir", "write_text", "rename")]:
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))

    path = tmp_path / "a"
    save_checkpoint(path, sections(0))
    seen = set()
    for value in range(1, 100):
        calls, doomed = 0, value  # one call later in each round
        before = load_checkpoint(path)["loop"]["step"]
        try:
            save_checkpoint(path, sections(value))
        except Killed:
            loaded = load_checkpoint(path)
            assert loaded["loop"]["step"] in (before, value)
            assert torch.equal(loaded["model"]["w"], torch.full((3, 2), float(loaded["loop"]["step"])))
            seen.add(loaded["loop"]["step"] == value)
        else:
            break
    assert seen == {True, False}
    assert value > 8
    assert load_checkpoint(path)["loop"]["step"] == value
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_process_that_is_killed_while_writing_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        import torch
        from narrowgauge.train import checkpoint

        checkpoint.save_checkpoint(sys.argv[1], {"loop": {"step": 1}, "model": {"w": torch.ones(3)}})
        save_file = checkpoint.save_file

        def half_written(tensors, file, **settings):
            save_file(tensors, file, **settings)
            os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save_file = half_written
        checkpoint.save_checkpoint(sys.argv[1], {"loop": {"step": 2}, "model": {"w": torch.zeros(3)}})
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "a")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    loaded = load_checkpoint(tmp_path / "a")
    assert loaded["loop"]["step"] == 1
    assert torch.equal(loaded["model"]["w"], torch.ones(3))


def test_the_checkpoints_before_it_are_kept(tmp_path: Path) -> None:
    for value in range(1, 6):
        save_checkpoint(tmp_path / "a", sections(value), keep=3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.previous", "a.previous-2"]
    steps = [load_checkpoint(tmp_path / name)["loop"]["step"] for name in ("a", "a.previous", "a.previous-2")]
    assert steps == [5, 4, 3]
    save_checkpoint(tmp_path / "a", sections(6), keep=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.previous"]
    with pytest.raises(ValueError, match="keep: expected at least 1, got 0"):
        save_checkpoint(tmp_path / "a", sections(7), keep=0)


def test_a_damaged_checkpoint_is_refused_and_the_whole_one_before_it_offered(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        save_checkpoint(tmp_path / "a", sections(value), keep=3)
    for name in ("a", "a.previous"):
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is damaged.* before it, of step 1, is whole: .*a\.previous-2$"):
        load_checkpoint(tmp_path / "a")
    (tmp_path / "a.previous-2" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"state.json has [0-9a-f]+$"):
        load_checkpoint(tmp_path / "a")
