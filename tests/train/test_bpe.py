import sys
from pathlib import Path

import pytest
import torch

from narrowgauge.train import BatchStream
from narrowgauge.train.documents import Document
from narrowgauge.train.text_files import standard_library_files

pytest.importorskip("tokenizers")

from narrowgauge.train.bpe import EOS, SIGNS, Bpe, token_corpus

DOCUMENTS = [Document(file.name, file.path.read_bytes()) for file in standard_library_files()[:12]]


@pytest.fixture(scope="module")
def bpe() -> Bpe:
    return Bpe.train((document.text for document in DOCUMENTS), vocab_size=400)


def test_every_text_comes_back_as_it_was(bpe: Bpe) -> None:
    for text in (
        "def f(x):\n    return x\n",
        "Grüße, 世界 \t\x00 !",
        "  leading and trailing  ",
        "",
        "".join(map(chr, range(256))),
    ):
        assert bpe.decode(bpe.encode(text)) == text


def test_it_has_the_size_asked_for_and_shortens_the_text(bpe: Bpe) -> None:
    assert bpe.vocab_size == 400
    tokens = bpe.encode(DOCUMENTS[0].text)
    assert max(tokens) < 400
    assert len(tokens) < 0.7 * len(DOCUMENTS[0].text)


def test_a_sign_in_a_text_is_text(bpe: Bpe) -> None:
    tokens = bpe.encode("a<eos>b")
    assert min(tokens) >= len(SIGNS)
    assert bpe.decode(tokens) == "a<eos>b"
    assert bpe.decode([*bpe.encode("ab"), EOS]) == "ab"


def test_training_repeats(bpe: Bpe) -> None:
    again = Bpe.train((document.text for document in DOCUMENTS), vocab_size=400)
    assert again.fingerprint == bpe.fingerprint
    assert Bpe.train((document.text for document in DOCUMENTS), vocab_size=300).fingerprint != bpe.fingerprint


def test_a_saved_one_is_the_same(bpe: Bpe, tmp_path: Path) -> None:
    bpe.save(tmp_path / "bpe.json")
    again = Bpe.load(tmp_path / "bpe.json")
    assert again.fingerprint == bpe.fingerprint
    text = "import os  # <eos> and more"
    assert again.encode(text) == bpe.encode(text)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        Bpe.load(tmp_path / "missing")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizer"):
        Bpe.load(tmp_path / "other.json")


def test_a_corpus_of_tokens_is_streamed(bpe: Bpe) -> None:
    corpus = token_corpus(DOCUMENTS, bpe, "twelve modules")
    assert (corpus.train == EOS).sum() > 5
    batch = next(BatchStream(corpus, batch_size=2, seq_len=16, validation_batches=1))
    assert int(batch["input_ids"].max()) > 256
    assert torch.equal(batch["input_ids"][:, 1:], batch["labels"][:, :-1])
    other = token_corpus(DOCUMENTS, Bpe.train([DOCUMENTS[0].text], vocab_size=300), "twelve modules")
    with pytest.raises(ValueError, match="corpus"):
        BatchStream(other, batch_size=2, seq_len=16).load_state_dict(
            BatchStream(corpus, batch_size=2, seq_len=16).state_dict()
        )


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="260"):
        Bpe.train(["text"], vocab_size=259)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"narrowgauge\[tokenizers\]"):
        Bpe.train(["text"], vocab_size=300)
