"""The text of a run, from its name: paths, domains of the standard library, mixtures of both; in bytes or in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narrowgauge.commands.train_settings import TrainConfig
from narrowgauge.train import DOMAINS, Bpe, ByteCorpus, Corpus, MixtureCorpus, document_corpus, domain, read_documents
from narrowgauge.train.bpe import EOS
from narrowgauge.train.corpus import BatchCorpus
from narrowgauge.train.text_files import SEPARATOR

BYTES = "bytes"
BPE, DOMAIN = "bpe:", "domain:"
DOCUMENT_FILES = (".jsonl", ".parquet")

Weight = tuple[float, float]
"""Of a source in the first step, and in the last."""


def make_tokenizer(text: str) -> Bpe | None:
    """The tokenizer of `bpe:FILE`, None for `bytes`; ValueError for others, and where its library is missing."""
    if text == BYTES:
        return None
    if not text.startswith(BPE):
        raise ValueError(f"tokenizer: expected {BYTES} or {BPE}FILE, got {text!r}")
    try:
        return Bpe.load(text.removeprefix(BPE))
    except ImportError as error:
        raise ValueError(f"tokenizer: {error}") from error


def make_corpus(config: TrainConfig, tokenizer: Bpe | None) -> BatchCorpus:
    """What `data` names; ValueError for what is neither there nor known."""
    mixture = parse_mixture(config.data)
    if mixture is None:
        return _tokens(_source(config.data, config), tokenizer)
    corpora = {name: _tokens(_source(name, config), tokenizer) for name in mixture}
    weights = list(mixture.values())
    if all(first == last for first, last in weights):
        return MixtureCorpus(corpora, [first for first, _ in weights])

    def moving(step: int) -> Sequence[float]:
        done = min(1.0, step / max(1, config.steps - 1))
        return [first + (last - first) * done for first, last in weights]

    return MixtureCorpus(corpora, moving)


def parse_mixture(text: str | None) -> dict[str, Weight] | None:
    """Source → weight of `name=0.7,name=1..0.2`; None for a single source, ValueError for half a mixture."""
    if text is None or "=" not in text or Path(text).exists():
        return None
    mixture: dict[str, Weight] = {}
    for part in text.split(","):
        name, _, weight = part.rpartition("=")
        first, _, last = weight.partition("..")
        try:
            numbers = (float(first), float(last or first))
        except ValueError as error:
            raise ValueError(f"data: expected NAME=WEIGHT or NAME=FIRST..LAST, got {part!r} in {text!r}") from error
        if not name.strip() or name.strip() in mixture:
            raise ValueError(f"data: expected each source by name and once, got {text!r}")
        mixture[name.strip()] = numbers
    return mixture


def _source(name: str | None, config: TrainConfig) -> Corpus:
    """One source as bytes."""
    limit = config.max_bytes or None
    if name is None:
        return ByteCorpus(max_bytes=limit)
    kind, path = name.removeprefix(DOMAIN), Path(name)
    if kind in DOMAINS:
        if name == kind and path.exists():
            raise ValueError(f"data: {name} is a path and a domain; write ./{name} or {DOMAIN}{name}")
        return domain(kind) if limit is None else domain(kind, limit)
    if not path.exists():
        near = get_close_matches(kind, DOMAINS, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"data: {name} does not exist, and is no domain ({', '.join(DOMAINS)}){hint}")
    files = path.rglob("*") if path.is_dir() else [path]
    if not any(file.suffix in DOCUMENT_FILES for file in files):
        return ByteCorpus(path, max_bytes=limit)
    try:
        documents = read_documents(path, field=config.text_field)
    except ImportError as error:
        raise ValueError(f"data: {error}") from error
    return document_corpus(documents, name, max_bytes=limit)


def _tokens(corpus: Corpus, tokenizer: Bpe | None) -> Corpus:
    """The same texts in a tokenizer's tokens."""
    if tokenizer is None:
        return corpus
    parts = (_encoded(part, tokenizer) for part in (corpus.train, corpus.held_out))
    return Corpus(corpus.name, *parts)


def _encoded(part: NDArray[np.integer], tokenizer: Bpe) -> NDArray[np.int32]:
    tokens: list[int] = []
    for index, text in enumerate(part.tobytes().split(bytes([SEPARATOR]))):
        tokens += [EOS] * (index > 0) + tokenizer.encode(text)
    return np.array(tokens, dtype=np.int32)
