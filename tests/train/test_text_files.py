from pathlib import Path

import pytest

from narrowgauge.train.text_files import (
    TextFile,
    first_bytes,
    read_joined,
    split_by_hash,
    standard_library_files,
    text_files,
)


def listed(**sizes: int) -> list[TextFile]:
    return [TextFile(name, Path(name), size) for name, size in sizes.items()]


def test_standard_library_files_are_sorted_sources_without_tests_and_packages() -> None:
    names = [file.name for file in standard_library_files()]
    assert names == sorted(names)
    assert "argparse.py" in names
    assert "json/decoder.py" in names
    assert all(name.endswith(".py") for name in names)
    assert not any(part in ("test", "tests", "site-packages") for name in names for part in name.split("/"))


def test_split_is_disjoint_complete_and_near_the_fraction() -> None:
    files = listed(**{f"f{i}": 100 + i for i in range(200)})
    train, validation = split_by_hash(files, 0.1)
    assert {file.name for file in train} & {file.name for file in validation} == set()
    assert sorted(file.name for file in train + validation) == sorted(file.name for file in files)
    share = sum(file.size for file in validation) / sum(file.size for file in files)
    assert 0.095 < share <= 0.1


def test_split_does_not_depend_on_the_order_or_the_place_of_the_files() -> None:
    files = listed(**{f"f{i}": 100 for i in range(50)})
    moved = [TextFile(file.name, Path("elsewhere") / file.name, file.size) for file in reversed(files)]
    assert {f.name for f in split_by_hash(files, 0.1)[1]} == {f.name for f in split_by_hash(moved, 0.1)[1]}


def test_split_holds_out_the_smallest_file_when_all_are_large() -> None:
    train, validation = split_by_hash(listed(a=50, b=30, c=40), 0.1)
    assert [file.name for file in validation] == ["b"]
    assert [file.name for file in train] == ["a", "c"]


def test_split_of_one_file_is_refused() -> None:
    with pytest.raises(ValueError, match="files: expected at least two to split, got 1"):
        split_by_hash(listed(a=5), 0.1)


def test_first_bytes_takes_whole_files_and_passes_over_those_that_do_not_fit() -> None:
    kept = first_bytes(listed(a=40, b=70, c=60, d=1), 100)
    assert [file.name for file in kept] == ["a", "c"]


def test_text_files_leaves_out_hidden_binary_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub").mkdir()
    for name, content in {
        "b.txt": b"b",
        "a.md": b"a",
        "sub/c": b"c",
        ".git/config": b"x",
        ".hidden": b"x",
        "image.bin": b"x\0y",
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert [file.name for file in text_files(tmp_path)] == ["a.md", "b.txt", "sub/c"]


def test_read_joined_puts_one_zero_byte_between_two_files(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name * 2)
    assert read_joined(text_files(tmp_path)).tobytes() == b"aa\0bb\0cc"
