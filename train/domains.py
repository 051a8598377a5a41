"""Labelled domains of the standard library, for experiments on what is learned and forgotten when the text changes.

| domain | text | documents |
|---|---|---|
| ``code`` | modules without their docstrings | a file each |
| ``docstrings`` | the docstrings alone, one paragraph after the other | a file each |
| ``tests`` | the library's own tests (not in every installation) | a file each |
| ``topics`` | the language reference in prose, ``pydoc_data.topics`` | a topic each |
| ``licence`` | licences in legal prose, 14 kB (not in every installation) | a paragraph each |
| ``html`` | the topics as HTML | a topic each |

About a tenth of each is held out, by whole documents.
"""

import ast
import html
import inspect
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from narrowgauge.train.corpus import Corpus
from narrowgauge.train.documents import Document, document_corpus
from narrowgauge.train.text_files import TextFile, library_test_files, standard_library_files

DOMAIN_BYTES = 1_000_000
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _docstrings(source: bytes) -> list[ast.Constant]:
    """The string nodes that are docstrings, in the order of their places."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in the library's sources
        tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            statement = node.body[0]
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                found.append(statement.value)
    return sorted(found, key=lambda node: node.lineno)


def without_docstrings(source: bytes) -> bytes:
    """Python source with the lines of its docstrings taken out (where one shares a line with code, it stays).

    The result is text to learn from: where a body was a docstring alone, it is not a program any more.
    """
    lines = source.splitlines(keepends=True)
    for node in reversed(_docstrings(source)):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        alone = not lines[first][: node.col_offset].strip() and not lines[last][node.end_col_offset or 0 :].strip()
        if alone:
            del lines[first : last + 1]
    return b"".join(lines)


def docstrings_of(source: bytes) -> bytes:
    """The docstrings of Python source, without indentation, with an empty line between two."""
    texts = (inspect.cleandoc(str(node.value)) for node in _docstrings(source))
    return "\n\n".join(text for text in texts if text).encode()


def _sources(files: list[TextFile], change: Callable[[bytes], bytes]) -> Iterator[Document]:
    for file in files:
        if text := change(file.path.read_bytes()):
            yield Document(file.name, text)


def _code() -> Iterator[Document]:
    return _sources(standard_library_files(), without_docstrings)


def _docs() -> Iterator[Document]:
    return _sources(standard_library_files(), docstrings_of)


def _tests() -> Iterator[Document]:
    return _sources([file for file in library_test_files() if file.name.startswith("test_")], lambda text: text)


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    return (Document(name, text.strip().encode()) for name, text in sorted(topics.items()))


def _licence() -> Iterator[Document]:
    path = Path(sysconfig.get_paths()["stdlib"], "LICENSE.txt")
    paragraphs = path.read_bytes().split(b"\n\n") if path.is_file() else []
    return (Document(f"{index:04d}", text) for index, text in enumerate(paragraphs) if text.strip())


def _html() -> Iterator[Document]:
    return (Document(topic.name, _page(topic).encode()) for topic in _topics())


def _page(topic: Document) -> str:
    """A topic as a page: its paragraphs, escaped, those that are indented as preformatted text."""
    parts = [f'<h2 id="{topic.name}">{html.escape(topic.name)}</h2>']
    for paragraph in topic.text.decode().split("\n\n"):
        tag = "pre" if paragraph.startswith("   ") else "p"
        parts.append(f"<{tag}>{html.escape(paragraph)}</{tag}>")
    return "<section>\n" + "\n".join(parts) + "\n</section>"


DOMAINS: Mapping[str, Callable[[], Iterator[Document]]] = MappingProxyType(
    {"code": _code, "docstrings": _docs, "tests": _tests, "topics": _topics, "licence": _licence, "html": _html}
)
"""Name → its documents, always in the same order."""


def domain_documents(name: str, max_bytes: int = DOMAIN_BYTES) -> list[Document]:
    """The first documents of a domain, ``max_bytes`` in all: the last one is cut after a line.

    Raises ``ValueError`` for an unknown domain, or one that this installation of Python does not have.
    """
    if name not in DOMAINS:
        raise ValueError(f"name: expected one of {', '.join(DOMAINS)}, got {name!r}")
    found: list[Document] = []
    size = 0
    for document in DOMAINS[name]():
        if size + document.size > max_bytes:
            lines, end, _ = document.text[: max_bytes - size].rpartition(b"\n")
            found += [Document(document.name, lines + end)] if lines else []
            break
        found.append(document)
        size += document.size
    if len(found) < 2:
        raise ValueError(f"name: this installation of Python has no texts for the domain {name!r} of {max_bytes} bytes")
    return found


def domain(name: str, max_bytes: int = DOMAIN_BYTES) -> Corpus:
    """A domain as a corpus of bytes; see :func:`domain_documents` for what is read and what is raised."""
    return document_corpus(domain_documents(name, max_bytes), f"the domain {name}")
