"""Files of parts: what is read is what was written, or nothing is."""

import json

import numpy as np
import pytest

from narrowgauge.priors.coding.container import MAGIC, Container, writing

PARTS = [np.arange(300, dtype=np.uint8) % 251, np.zeros(0, dtype=np.uint8), np.array([7, 8, 9], dtype=np.uint8)]


@pytest.fixture
def file(tmp_path):
    with writing(tmp_path / "a.ngz") as writer:
        writer.finish({"parts": [writer.add(part) for part in PARTS]})
    return tmp_path / "a.ngz"


def read(path):
    with Container(path) as container:
        container.check_parts(container.body["parts"])
        return [container.part(entry).tolist() for entry in container.body["parts"]]


def test_parts_come_back(file):
    assert read(file) == [part.tolist() for part in PARTS]


def test_the_form_of_the_file_is_what_the_docstring_says(file):
    data = file.read_bytes()
    offset, length = (int.from_bytes(data[at : at + 8], "little") for at in (8, 16))
    assert data[:8] == MAGIC
    assert data[56:offset] == b"".join(part.tobytes() for part in PARTS)
    body = json.loads(data[offset:])
    assert (body["format"], body["version"], length) == ("narrowgauge-compressed", 1, len(data) - offset)


def test_every_bit_that_is_flipped_is_noticed(file):
    data = file.read_bytes()
    for at in range(len(data)):
        for bit in (0, 7):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            with pytest.raises(ValueError, match=f"path: {file}|SHA-256"):
                read(file)


def test_every_other_length_is_noticed(file):
    data = file.read_bytes()
    for size in range(len(data)):
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"damaged|no compressed model"):
            read(file)
    file.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        read(file)


def test_later_versions_and_other_kinds_are_refused(tmp_path):
    for body, message in (({"version": 2}, "has version 2"), ({"format": "other"}, "not that of a narrowgauge")):
        with writing(tmp_path / "b") as writer:
            writer.finish(body)
        with pytest.raises(ValueError, match=message):
            Container(tmp_path / "b")


def test_gaps_and_parts_left_out_are_noticed(file):
    with Container(file) as container:
        entries = container.body["parts"]
        for wrong in (entries[1:], entries[:-1], [*entries, entries[0]], []):
            with pytest.raises(ValueError, match="damaged"):
                container.check_parts(wrong)


def test_a_file_that_fails_leaves_the_one_before(file):
    before = file.read_bytes()
    with pytest.raises(TypeError), writing(file) as writer:
        writer.finish({"parts": [writer.add(PARTS[0]), object()]})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["a.ngz"]


def test_paths_that_cannot_be_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="path: no file at"):
        Container(tmp_path / "none")
    with pytest.raises(ValueError, match="is a folder"), writing(tmp_path):
        pass
    with pytest.raises(TypeError, match="path: expected"):
        Container(3)
