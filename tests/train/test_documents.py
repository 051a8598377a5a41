import json
import sys
from pathlib import Path

import pytest

from narrowgauge.train.documents import Document, document_corpus, read_documents, split_documents

TEXTS = [f"document {index} ".encode() * (index + 1) for index in range(20)]
DOCUMENTS = [Document(str(index), text) for index, text in enumerate(TEXTS)]


def write_json_lines(path: Path, field: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": i, field: text.decode()}) + "\n" for i, text in enumerate(TEXTS)) + "\n")
    return path


def test_json_lines_are_documents(tmp_path: Path) -> None:
    found = read_documents(write_json_lines(tmp_path / "x.jsonl"))
    assert [document.text for document in found] == TEXTS
    assert [document.name for document in found[:2]] == ["x.jsonl:1", "x.jsonl:2"]


def test_another_field_may_hold_the_text(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "x.jsonl", field="body")
    assert [document.text for document in read_documents(path, field="body")] == TEXTS
    with pytest.raises(ValueError, match="'body'"):
        read_documents(path)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(ValueError, match="line 2"):
        read_documents(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="list"):
        read_documents(path)


def test_a_folder_has_the_documents_of_all_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.jsonl").write_text('{"text": "three"}\n{"text": ""}\n{"text": "four"}\n')
    (tmp_path / "picture").write_bytes(b"\0\1")
    (tmp_path / ".hidden").write_text("no")
    found = read_documents(tmp_path)
    assert [(d.name, d.text.decode()) for d in found] == [
        ("a.txt", "one"),
        ("c.jsonl:1", "three"),
        ("c.jsonl:3", "four"),
        ("sub/b.txt", "two"),
    ]


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\0\1")
    with pytest.raises(ValueError, match="not text"):
        read_documents(tmp_path / "picture")
    with pytest.raises(ValueError, match="does not exist"):
        read_documents(tmp_path / "missing")


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"text": ["one", None, "two"], "number": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "x.parquet")
    expected = [Document("x.parquet:1", b"one"), Document("x.parquet:3", b"two")]
    assert read_documents(tmp_path / "x.parquet") == read_documents(tmp_path) == expected
    with pytest.raises(ValueError, match="no column 'body'"):
        read_documents(tmp_path / "x.parquet", field="body")
    with pytest.raises(ValueError, match="int"):
        read_documents(tmp_path / "x.parquet", field="number")


def test_without_the_extra_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"narrowgauge\[parquet\]"):
        read_documents(tmp_path / "x.parquet")


def test_about_a_tenth_is_held_out_by_whole_documents() -> None:
    train, held_out = split_documents(DOCUMENTS)
    assert sorted(map(id, train + held_out)) == sorted(map(id, DOCUMENTS))
    assert 0 < sum(d.size for d in held_out) <= 0.1 * sum(d.size for d in DOCUMENTS)
    with pytest.raises(ValueError, match="names"):
        split_documents([Document("a", b"x"), Document("a", b"y")])


def test_a_corpus_joins_the_documents_of_each_part() -> None:
    corpus = document_corpus(DOCUMENTS, "numbers")
    train, held_out = split_documents(DOCUMENTS)
    assert corpus.train.tobytes() == b"\0".join(d.text for d in train)
    assert corpus.held_out.tobytes() == b"\0".join(d.text for d in held_out)


def test_a_corpus_of_other_tokens_has_its_separator() -> None:
    corpus = document_corpus(DOCUMENTS, "words", encode=lambda text: [300 + len(w) for w in text.split()], separator=7)
    train, _ = split_documents(DOCUMENTS)
    assert (corpus.train == 7).sum() == len(train) - 1
    assert corpus.train[0] == 308
    assert set(corpus.train.tolist()) <= {7, 301, 302, 308}


def test_a_corpus_may_be_limited_and_needs_two_documents() -> None:
    corpus = document_corpus(DOCUMENTS, "numbers", max_bytes=300)
    assert corpus.train.size + corpus.held_out.size < 310
    with pytest.raises(ValueError, match="max_bytes"):
        document_corpus(DOCUMENTS, "numbers", max_bytes=15)
