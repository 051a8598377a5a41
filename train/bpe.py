"""Byte-level byte-pair encoding, trained here, through the ``tokenizers`` library (an extra).

The most frequent pair of neighbouring tokens becomes a token, again and again, until the vocabulary has the size
asked for (Sennrich et al. 2016, arXiv 1508.07909; on bytes: Radford et al. 2019). The 256 bytes are in it, so every
text can be encoded and comes back as it was. The first four tokens are the signs ``<pad>``, ``<mask>``, ``<bos>``,
``<eos>``; text that looks like one of them is encoded like any other text.
"""

import hashlib
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from narrowgauge.train.corpus import Corpus
from narrowgauge.train.documents import Document, document_corpus

BPE_EXTRA = "tokenizers"
SIGNS = ("<pad>", "<mask>", "<bos>", "<eos>")
PAD, MASK, BOS, EOS = range(4)
MIN_VOCAB_SIZE = 256 + len(SIGNS)


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ImportError(f"byte-pair encoding needs a library: pip install 'narrowgauge[{BPE_EXTRA}]'") from error


class Bpe:
    """A trained tokenizer: text ↔ tokens 0 … ``vocab_size`` - 1. Make one with :meth:`train` or :meth:`load`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True  # signs are put in as numbers, never found in a text

    @classmethod
    def train(cls, texts: Iterable[str | bytes], vocab_size: int) -> "Bpe":
        """Learn merges from texts (bytes are read as UTF-8, broken ones replaced); the same texts give the same.

        Raises ``ValueError`` for a vocabulary below 260, ``ImportError`` where the extra is missing.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(f"vocab_size: expected at least {MIN_VOCAB_SIZE} (bytes and signs), got {vocab_size}")
        library = _library()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SIGNS),
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(_text, texts), trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | Path) -> "Bpe":
        """Read a file of :meth:`save`; ``ValueError`` for another file, ``ImportError`` without the extra."""
        library = _library()
        if not Path(path).is_file():
            raise ValueError(f"path: {path} does not exist; expected a file written by Bpe.save")
        try:
            tokenizer = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"path: {path} is not a tokenizer: {error}") from error
        if [tokenizer.token_to_id(sign) for sign in SIGNS] != list(range(len(SIGNS))):
            raise ValueError(
                f"path: {path} is not a tokenizer of Bpe.save, its first tokens are not {', '.join(SIGNS)}"
            )
        return cls(tokenizer)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON, in the format of the ``tokenizers`` library."""
        self._tokenizer.save(str(path))

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, signs included (fewer than asked for where the text has too few pairs)."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and its merges."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def encode(self, text: str | bytes) -> list[int]:
        """The tokens of a text; no sign is added. Bytes are read as UTF-8, broken ones replaced."""
        return list(self._tokenizer.encode(_text(text), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; signs are dropped."""
        return str(self._tokenizer.decode([int(number) for number in ids], skip_special_tokens=True))


def _text(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode(errors="replace")


def token_corpus(documents: Sequence[Document], bpe: Bpe, name: str) -> Corpus:
    """Documents as a corpus of a tokenizer's tokens, with ``<eos>`` between two.

    Its fingerprint is that of the tokens, so a stream resumed with another tokenizer is refused.
    """
    return document_corpus(documents, name, encode=bpe.encode, separator=EOS)
