"""The file itself: what is refused, and what a writer that dies leaves behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from narrowgauge.formats.model_file import DIGEST, ENTRY
from narrowgauge.kernels import quantize
from narrowgauge.nn.files import describe, load_tensors, save_tensors
from other_process import run_program


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_tensors({"w": quantize(torch.linspace(-1, 1, 640).view(5, 128), "nf4/1x64"), "b": torch.ones(3)}, path)
    return path


def rewrite(path: Path, **changes: Any) -> None:
    """The file with another description, whose digest fits."""
    import hashlib

    with safe_open(path, framework="pt") as reader:
        body = json.loads(reader.metadata()[ENTRY])
    text = json.dumps(body | changes)
    metadata = {ENTRY: text, DIGEST: hashlib.sha256(text.encode()).hexdigest()}
    save_file(load_file(path), path, metadata=metadata)


@pytest.mark.parametrize("keep", [0, 5, 100, 2000, -1])
@pytest.mark.parametrize("read", [load_tensors, describe])
def test_truncated_files_are_refused(file: Path, keep: int, read: Any) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"path: .*model.safetensors is no safetensors file, or damaged"):
        read(file)


def test_a_flipped_bit_is_noticed_and_the_tensor_named(file: Path) -> None:
    with safe_open(file, framework="pt") as reader:
        codes = reader.get_tensor("w.codes").numpy().tobytes()
    content = bytearray(file.read_bytes())
    content[content.rindex(codes) + 7] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: w.codes does not have the SHA-256"):
        load_tensors(file)


@pytest.mark.parametrize("read", [load_tensors, describe])
def test_a_changed_description_is_noticed(file: Path, read: Any) -> None:
    content = file.read_bytes()
    assert content.count(b"1x64") > 1
    file.write_bytes(content.replace(b"1x64", b"1x32"))
    with pytest.raises(ValueError, match="is damaged: its description does not have the SHA-256"):
        read(file)


@pytest.mark.parametrize("read", [load_tensors, describe])
def test_files_of_others_are_refused(tmp_path: Path, read: Any) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "foreign", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"foreign was not written by export: no narrowgauge-model .* which has format"
    ):
        read(tmp_path / "foreign")
    (tmp_path / "text").write_text("hello, this is no tensor file at all")
    with pytest.raises(ValueError, match="text is no safetensors file"):
        read(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match=r"no file at .*none"):
        read(tmp_path / "none")


def test_a_later_version_is_refused(file: Path) -> None:
    rewrite(file, version=2)
    with pytest.raises(ValueError, match="has version 2 of narrowgauge-model, this program reads 1"):
        load_tensors(file)


def test_a_description_that_lacks_something_is_refused(file: Path) -> None:
    rewrite(file, tensors={"w": {"codes": "w.codes"}})
    with pytest.raises(ValueError, match=r"its description is malformed: KeyError: 'scale'"):
        load_tensors(file)
    rewrite(file, formats=[])
    with pytest.raises(ValueError, match="has no section 'formats'"):
        load_tensors(file)
    rewrite(file, formats={}, sha256={})
    with pytest.raises(ValueError, match=r"differ in the tensors \['b', 'w.codes', 'w.scale'\]"):
        load_tensors(file)


def test_dtypes_that_no_file_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"model: z is a torch.strided tensor of torch.complex64 on cpu; accepted: dense"
    ):
        save_tensors({"z": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "a")
    with pytest.raises(TypeError, match=r"model: z is a .* on meta"):
        save_tensors({"z": torch.zeros(2, device="meta")}, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_file_before_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(tensors: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("narrowgauge.nn.files.container.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors({"x": torch.ones(3)}, file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_process_that_is_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        import torch
        from narrowgauge.nn.files import container, save_tensors

        save_tensors({"x": torch.ones(3)}, sys.argv[1])
        save_file = container.save_file

        def half_written(tensors, file, **settings):
            save_file(tensors, file, **settings)
            os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        container.save_file = half_written
        save_tensors({"x": torch.zeros(3)}, sys.argv[1])
    """
    path = tmp_path / "a.safetensors"
    run_program(program, path, status=-signal.SIGKILL)
    assert load_tensors(path)["x"].tolist() == [1, 1, 1]
    save_tensors({"x": torch.zeros(3)}, path)
    assert load_tensors(path)["x"].tolist() == [0, 0, 0]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
