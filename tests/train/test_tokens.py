import pytest
import torch

from narrowgauge.train.tokens import BOS, EOS, MASK, PAD, VOCAB_SIZE, decode, encode


def test_the_signs_follow_the_bytes() -> None:
    assert (PAD, MASK, BOS, EOS) == (256, 257, 258, 259)
    assert VOCAB_SIZE == EOS + 1


def test_every_byte_is_its_own_token() -> None:
    assert encode(bytes(range(256))) == list(range(256))
    assert encode("aé") == [97, 0xC3, 0xA9]


def test_decode_takes_text_back_and_drops_signs() -> None:
    assert decode([BOS, *encode("Grüße"), EOS, PAD]) == "Grüße"
    assert decode(torch.tensor([104, 105, MASK])) == "hi"


def test_broken_utf8_is_replaced() -> None:
    assert decode([0xC3, 65]) == "\N{REPLACEMENT CHARACTER}A"


def test_a_negative_token_is_refused() -> None:
    with pytest.raises(ValueError, match="range"):
        decode([-100])
