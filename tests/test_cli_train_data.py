"""What `data` and `tokenizer` of `narrowgauge train` name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from narrowgauge.commands.train_config import TrainConfig
from narrowgauge.commands.train_data import make_corpus, make_tokenizer, parse_mixture
from narrowgauge.train import ByteCorpus, Corpus, MixtureCorpus, domain

SENTENCE = "All that is gold does not glitter, not all those who wander are lost.\n"


@pytest.fixture(autouse=True)
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text(SENTENCE * 60)
    (tmp_path / "two.txt").write_text(SENTENCE.upper() * 60)
    lines = [json.dumps({"body": f"{number} {SENTENCE}"}) for number in range(40)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def corpus(data: str | None, **settings: object) -> Corpus:
    made = make_corpus(TrainConfig(data=data, **settings), None)
    assert isinstance(made, Corpus)
    return made


def test_a_path_is_the_corpus_of_its_bytes() -> None:
    assert corpus("one.txt").fingerprint == ByteCorpus("one.txt").fingerprint


def test_json_lines_are_documents_alone_and_in_a_folder(texts: Path) -> None:
    alone = corpus("lines.jsonl", text_field="body")
    assert b"body" not in alone.train.tobytes()
    assert b"wander are lost.\n\x00" in alone.train.tobytes()  # between two documents
    folder = texts / "folder"
    folder.mkdir()
    (texts / "lines.jsonl").rename(folder / "lines.jsonl")
    assert sorted(corpus("folder", text_field="body").train.tobytes()) == sorted(alone.train.tobytes())
    with pytest.raises(ValueError, match="has no text under 'text'; it has 'body'"):
        corpus("folder")


def test_a_domain_is_named_and_may_be_cut() -> None:
    assert corpus("topics", max_bytes=20_000).fingerprint == domain("topics", 20_000).fingerprint
    assert corpus("domain:topics", max_bytes=20_000).fingerprint == domain("topics", 20_000).fingerprint


def test_a_path_with_the_name_of_a_domain_has_to_be_told_apart(texts: Path) -> None:
    (texts / "topics").write_text(SENTENCE * 60)
    with pytest.raises(ValueError, match=r"topics is a path and a domain; write \./topics or domain:topics"):
        corpus("topics")
    assert corpus("./topics").fingerprint == ByteCorpus("one.txt").fingerprint
    assert corpus("domain:topics", max_bytes=20_000).fingerprint == domain("topics", 20_000).fingerprint


def test_a_mixture_has_its_sources_with_their_weights() -> None:
    mixture = make_corpus(TrainConfig(data="one.txt=3,two.txt=1"), None)
    assert isinstance(mixture, MixtureCorpus)
    rows = mixture.sources_of(0, 4000)
    assert np.mean(rows == 0) == pytest.approx(0.75, abs=0.03)
    again = make_corpus(TrainConfig(data="one.txt=3,two.txt=1.0", steps=3), None)
    assert mixture.fingerprint == again.fingerprint


def test_the_weights_of_a_mixture_may_move_over_the_run() -> None:
    mixture = make_corpus(TrainConfig(data="one.txt=1..0,two.txt=0..1", steps=11), None)
    assert isinstance(mixture, MixtureCorpus)
    assert [int(mixture.sources_of(step, 2000).sum()) for step in (0, 10, 20)] == [0, 2000, 2000]
    assert mixture.sources_of(5, 2000).mean() == pytest.approx(0.5, abs=0.05)


def test_a_mixture_is_not_a_path_with_its_signs(texts: Path) -> None:
    assert parse_mixture("code=0.7,topics=1..0.2") == {"code": (0.7, 0.7), "topics": (1.0, 0.2)}
    assert parse_mixture(None) is None
    (texts / "a=1,b=2").write_text(SENTENCE * 60)
    assert parse_mixture("a=1,b=2") is None
    assert corpus("a=1,b=2").fingerprint == ByteCorpus("one.txt").fingerprint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere.txt", r"data: nowhere\.txt does not exist, and is no domain \(code, docstrings, tests"),
        ("topic", r"topic does not exist, and is no domain .*; did you mean 'topics'\?"),
        ("one.txt=1,nowhere.txt=1", "nowhere.txt does not exist"),
        ("one.txt=much", "expected NAME=WEIGHT or NAME=FIRST..LAST, got 'one.txt=much'"),
        ("one.txt=1,two.txt", "got 'two.txt' in 'one.txt=1,two.txt'"),
        ("one.txt=1,one.txt=2", "expected each source by name and once"),
        ("=1", "expected each source by name and once"),
        ("one.txt=0,two.txt=0", "weights: expected 2 finite numbers of 0 or above, not all 0"),
        ("one.txt=nan", "weights: expected 1 finite numbers"),
    ],
)
def test_what_is_not_there_is_named(data: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_corpus(TrainConfig(data=data), None)


def test_parquet_without_its_library_names_the_extra(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (texts / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'narrowgauge\[parquet\]'"):
        corpus("rows.parquet")


def test_tokens_are_those_of_the_same_texts() -> None:
    words = SimpleNamespace(encode=lambda text: [10 + len(word) for word in text.split()])
    made = make_corpus(TrainConfig(data="lines.jsonl", text_field="body"), words)  # type: ignore[arg-type]
    raw = corpus("lines.jsonl", text_field="body")
    assert isinstance(made, Corpus)
    for tokens, part in ((made.train, raw.train), (made.held_out, raw.held_out)):
        documents = part.tobytes().split(b"\0")
        assert (tokens == 3).sum() == len(documents) - 1  # the tokenizer's <eos>
        assert tokens.size == sum(len(text.split()) for text in documents) + len(documents) - 1


def test_a_tokenizer_is_bytes_or_a_file_of_bpe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_tokenizer("bytes") is None
    with pytest.raises(ValueError, match="tokenizer: expected bytes or bpe:FILE, got 'bpe'"):
        make_tokenizer("bpe")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"tokenizer: .*pip install 'narrowgauge\[tokenizers\]'"):
        make_tokenizer("bpe:one.txt")


def test_a_missing_file_of_bpe_is_named() -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match=r"nowhere\.json does not exist"):
        make_tokenizer("bpe:nowhere.json")
