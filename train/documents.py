"""Documents: texts with a name, from folders, text files, JSON lines and Parquet, and corpora made of them.

| path | documents |
|---|---|
| ``x.jsonl`` | one for each line, its text under ``field``; empty lines are passed over |
| ``x.parquet`` | one for each row, its text in the column ``field``; needs the extra ``parquet`` |
| a folder | those of every file below it, hidden files and files that are not text left out |
| any other file | the whole text |
"""

import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from narrowgauge.train.corpus import Corpus, TokenArray
from narrowgauge.train.text_files import SEPARATOR, first_bytes, is_text, split_by_hash, text_files

PARQUET_EXTRA = "parquet"


@dataclass(frozen=True, slots=True)
class Document:
    """``name`` is its path below the corpus's root, with a number where a file has several; ``text`` is UTF-8."""

    name: str
    text: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.text)


def read_documents(path: str | Path, *, field: str = "text") -> list[Document]:
    """All non-empty documents of a file or folder, by name of the file and place in it.

    Raises ``ValueError`` for a missing path, a line or column without ``field``, or a binary file;
    ``ImportError`` that names the extra when Parquet is met without it.
    """
    path = Path(path)
    if path.is_dir():
        files = {file.name: file.path for file in text_files(path)}
        files |= {file.relative_to(path).as_posix(): file for file in path.rglob("*.parquet")}
        found = [document for name in sorted(files) for document in _of_file(files[name], name, field)]
    elif path.is_file():
        found = list(_of_file(path, path.name, field))
    else:
        raise ValueError(f"path: {path} does not exist; expected a file or a folder of files")
    return [document for document in found if document.text]


def _of_file(path: Path, name: str, field: str) -> Iterator[Document]:
    if path.suffix == ".jsonl":
        return _of_json_lines(path, name, field)
    if path.suffix == ".parquet":
        return _of_parquet(path, name, field)
    if not is_text(path):
        raise ValueError(f"path: {path} is not text (it holds zero bytes)")
    return iter((Document(name, path.read_bytes()),))


def _of_json_lines(path: Path, name: str, field: str) -> Iterator[Document]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"path: line {number} of {path} is not JSON: {error}") from error
            if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
                raise ValueError(f"field: line {number} of {path} has no text under {field!r}; it has {_keys(entry)}")
            yield Document(f"{name}:{number}", entry[field].encode())


def _keys(entry: object) -> str:
    return ", ".join(map(repr, entry)) if isinstance(entry, dict) else f"no fields, it is a {type(entry).__name__}"


def _of_parquet(path: Path, name: str, field: str) -> Iterator[Document]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(f"{path} is Parquet; to read it: pip install 'narrowgauge[{PARQUET_EXTRA}]'") from error
    with parquet.ParquetFile(path) as file:
        if field not in file.schema_arrow.names:
            raise ValueError(f"field: {path} has no column {field!r}; it has {', '.join(file.schema_arrow.names)}")
        number = 0
        for batch in file.iter_batches(columns=[field]):
            for text in batch.column(0).to_pylist():
                number += 1
                if not isinstance(text, str | None):
                    raise ValueError(f"field: row {number} of {path} has {type(text).__name__} in {field!r}, not text")
                yield Document(f"{name}:{number}", (text or "").encode())


def split_documents(documents: Sequence[Document], fraction: float = 0.1) -> tuple[list[Document], list[Document]]:
    """Documents to train on and about ``fraction`` of all bytes held out, by whole documents and a hash of the names.

    Names have to differ. Raises ``ValueError`` for fewer than two documents or equal names.
    """
    if len({document.name for document in documents}) < len(documents):
        raise ValueError("documents: expected different names, two are equal")
    return split_by_hash(documents, fraction)


def document_corpus(
    documents: Sequence[Document],
    name: str,
    *,
    encode: Callable[[bytes], Sequence[int]] | None = None,
    separator: int = SEPARATOR,
    max_bytes: int | None = None,
) -> Corpus:
    """The documents as a corpus, those of each part one after the other with ``separator`` between two.

    Without ``encode`` tokens are bytes; with it they are what it makes of a document's text, int32. With
    ``max_bytes``, only the first documents that fit. Raises ``ValueError`` for fewer than two documents.
    """
    kept = list(documents) if max_bytes is None else first_bytes(documents, max_bytes)
    if len(kept) < 2:
        raise ValueError(
            f"documents: {name} needs two (one is held out for validation), got {len(kept)} with max_bytes={max_bytes}"
        )
    train, held_out = (_joined(part, encode, separator) for part in split_documents(kept))
    return Corpus(name, train, held_out)


def _joined(
    documents: Sequence[Document], encode: Callable[[bytes], Sequence[int]] | None, separator: int
) -> TokenArray:
    if encode is None:
        return np.frombuffer(bytes([separator]).join(document.text for document in documents), dtype=np.uint8)
    parts = []
    for index, document in enumerate(documents):
        parts.append(np.array([separator] * (index > 0) + list(encode(document.text)), dtype=np.int32))
    return np.concatenate(parts)
