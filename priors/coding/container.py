"""One file of named parts: bytes one after the other, then a description as JSON; both under SHA-256.

    8 bytes     magic, with which nothing else begins
    8, 8        offset and length of the description, unsigned, little-endian
    32          SHA-256 of the description
    …           the parts, from byte 56 to the description, each with offset, length and SHA-256 in it
    …           the description, UTF-8, to the end of the file

Every byte is under a digest or compared, so that a damaged file is noticed, whatever the damage. Parts are read one at
a time, from a memory map.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from narrowgauge.atomic_files import replacing
from narrowgauge.priors.coding.bitstream import Bytes
from narrowgauge.priors.coding.record import whole

MAGIC = b"NGZ1\r\n\x1a\n"
FORMAT, VERSION = "narrowgauge-compressed", 1
_HEAD = struct.Struct("<8sQQ32s")


def checked_path(path: object) -> Path:
    """The absolute path. TypeError for what is no path."""
    if not isinstance(path, str | Path):
        raise TypeError(f"path: expected a string or a Path, got {type(path).__name__}")
    return Path(path).absolute()


class Writer:
    """Takes parts one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at = file, _HEAD.size
        file.write(bytes(_HEAD.size))

    def add(self, part: Bytes) -> dict[str, Any]:
        """Writes the bytes; where they are, for the description."""
        data = np.ascontiguousarray(part).data
        self._file.write(data)
        entry = {"offset": self._at, "nbytes": part.nbytes, "sha256": hashlib.sha256(data).hexdigest()}
        self._at += part.nbytes
        return entry

    def finish(self, body: Mapping[str, Any]) -> None:
        """Writes the description, and at last what makes the file one of this kind."""
        text = json.dumps({"format": FORMAT, "version": VERSION, **body}, allow_nan=False).encode()
        self._file.write(text)
        self._file.seek(0)
        self._file.write(_HEAD.pack(MAGIC, self._at, len(text), hashlib.sha256(text).digest()))


@contextmanager
def writing(path: str | Path) -> Iterator[Writer]:
    """Gives the writer of a file, which is there as a whole when the block ends, or not at all."""
    file = checked_path(path)
    if file.is_dir():
        raise ValueError(f"path: {file} is a folder, accepted: the path of a file")
    with replacing(file) as partial, partial.open("wb") as handle:
        yield Writer(handle)


class Container:
    """An open file whose description is as it was written; a context manager.

    FileNotFoundError where there is none; ValueError for one that is damaged, of another kind or a later version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = checked_path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"path: no file at {self.path}")
        with self.path.open("rb") as handle:
            size = self.path.stat().st_size
            if size < _HEAD.size:
                raise ValueError(f"path: {self.path} is no compressed model: it has {size} bytes")
            self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self.body = self._description()
        except ValueError as error:
            self.close()
            raise ValueError(f"path: {self.path} {error}") from error

    def _description(self) -> dict[str, Any]:
        magic, offset, length, digest = _HEAD.unpack(self._map[: _HEAD.size])
        if magic != MAGIC:
            raise ValueError(f"is no compressed model: it begins with {magic!r}")
        if offset < _HEAD.size or offset + length != len(self._map):
            raise ValueError(f"is damaged: it has {len(self._map)} bytes, expected {offset + length}")
        text = self._map[offset:]
        if hashlib.sha256(text).digest() != digest:
            raise ValueError("is damaged: its description does not have the SHA-256 written in it")
        body = json.loads(text)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ValueError(f"has a description that is not that of a {FORMAT}")
        if body.get("version") != VERSION:
            raise ValueError(f"has version {body.get('version')!r} of {FORMAT}, this program reads {VERSION}")
        self._end = offset
        return body

    def part(self, entry: Mapping[str, Any]) -> Bytes:
        """A copy of the bytes that `Writer.add` gave this entry for. ValueError where they are not those."""
        offset = whole(dict(entry), "offset", _HEAD.size, self._end)
        nbytes = whole(dict(entry), "nbytes", 0, self._end - offset)
        data = self._map[offset : offset + nbytes]
        if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
            raise ValueError("is damaged: its bytes do not have the SHA-256 written in the file")
        return np.frombuffer(data, dtype=np.uint8)

    def check_parts(self, entries: list[Mapping[str, Any]]) -> None:
        """ValueError unless these are all parts, in their order, without a gap."""
        at = _HEAD.size
        for entry in entries:
            if entry.get("offset") != at:
                raise ValueError(f"path: {self.path} is damaged: a part is at {entry.get('offset')!r}, expected {at}")
            at += whole(dict(entry), "nbytes")
        if at != self._end:
            raise ValueError(f"path: {self.path} is damaged: its parts end at {at}, its description is at {self._end}")

    def close(self) -> None:
        """Lets go of the file."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
