import ast

import pytest

from narrowgauge.train import BatchStream
from narrowgauge.train.domains import DOMAINS, docstrings_of, domain, domain_documents, without_docstrings

SOURCE = b'''"""Module text.

More of it.
"""
import os


class A:
    """Class text."""

    def f(self): "stays on its line"

    def g(self):
        """Caf\xc3\xa9."""
        return """no docstring"""
'''


def test_docstrings_are_taken_out_of_code() -> None:
    code = without_docstrings(SOURCE)
    assert b"text" not in code
    assert b"Caf" not in code
    assert b'"stays on its line"' in code
    assert b'"""no docstring"""' in code
    ast.parse(code)


def test_docstrings_are_paragraphs_without_indentation() -> None:
    expected = "Module text.\n\nMore of it.\n\nClass text.\n\nstays on its line\n\nCafé."
    assert docstrings_of(SOURCE).decode() == expected


@pytest.mark.parametrize(
    ("name", "typical", "untypical"),
    [
        ("code", b"return ", b"</p>"),
        ("docstrings", b" the ", b"self._"),
        ("topics", b"expression", b"</p>"),
        ("html", b"</p>", b"\x01"),
    ],
)
def test_each_domain_has_its_own_text(name: str, typical: bytes, untypical: bytes) -> None:
    corpus = domain(name, 120_000)
    text = corpus.train.tobytes()
    assert 110_000 < corpus.train.size + corpus.held_out.size <= 120_500
    assert text.count(typical) > 20 * text.count(untypical) + 20
    next(BatchStream(corpus, batch_size=2, seq_len=32, validation_batches=2))


@pytest.mark.parametrize("name", ["tests", "licence"])
def test_what_an_installation_does_not_have_is_refused_by_name(name: str) -> None:
    if next(DOMAINS[name](), None) is None:
        with pytest.raises(ValueError, match=f"domain '{name}'"):
            domain(name)
    else:
        assert domain(name, 20_000 if name == "licence" else 200_000).train.size > 10_000


def test_domains_differ_and_repeat() -> None:
    prints = {name: domain(name, 30_000).fingerprint for name in ("code", "docstrings", "topics", "html")}
    assert len(set(prints.values())) == 4
    assert domain("topics", 30_000).fingerprint == prints["topics"]


def test_documents_have_different_names_and_fit() -> None:
    documents = domain_documents("topics", 30_000)
    assert len({document.name for document in documents}) == len(documents)
    assert 29_000 < sum(document.size for document in documents) <= 30_000
    assert documents[-1].text.endswith(b"\n")


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="code, docstrings"):
        domain("poems")
