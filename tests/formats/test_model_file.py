"""The description of a file: what is read, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narrowgauge.formats.model_file import DIGEST, ENTRY, SECTIONS, read_description, stored_names, text_digest

BODY = {"version": 1, **{section: {} for section in SECTIONS}, "sha256": {"a": "00"}}


def metadata(body: Any, **changes: str) -> dict[str, str]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {ENTRY: text, DIGEST: text_digest(text), **changes}


def test_a_description_comes_back() -> None:
    assert read_description(Path("m"), metadata(BODY), ["a"]) == BODY


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"format": "pt"}, "m was not written by export: no narrowgauge-model in its metadata, which has format"),
        (metadata(BODY, sha256="0"), "m is damaged: its description does not have the SHA-256"),
        (metadata("{"), "m has a description that is no JSON"),
        (metadata([1]), "m has version None of narrowgauge-model, this program reads 1"),
        (metadata({**BODY, "version": 2}), "m has version 2"),
        (metadata({**BODY, "aliases": 3}), "m has no section 'aliases'"),
        (metadata({**BODY, "sha256": {"b": "00"}}), r"differ in the tensors \['a', 'b'\]"),
    ],
)
def test_others_are_refused(found: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_description(Path("m"), found, ["a"])


def test_the_tensors_of_an_entry() -> None:
    entry = {"codes": "c", "scale": "s", "outer": None, "zero_point": "z", "double": None}
    assert stored_names(entry) == ["c", "s", "z"]
    assert stored_names({**entry, "double": {"second": "t", "mean": "m"}}) == ["c", "s", "z", "t", "m"]
