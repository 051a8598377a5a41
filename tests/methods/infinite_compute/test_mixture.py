import pytest
import torch

from narrowgauge.methods.infinite_compute import MixedStream, sample_windows, student_steps
from narrowgauge.train import BatchSource, Llama, LlamaConfig
from narrowgauge.train.windows import WindowStream

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def stream(letter: bytes, count: int, rows: int, seed: int = 0) -> WindowStream:
    """Windows of two bytes, the second of which tells where they are from."""
    windows = [bytes([index]) + letter for index in range(count)]
    return WindowStream(windows, windows[:2], batch_size=rows, seq_len=1, seed=seed)


def mixed() -> MixedStream:
    return MixedStream(stream(b"r", 8, 1), stream(b"w", 9, 3))


def test_a_batch_has_the_rows_of_both_sources() -> None:
    data = mixed()
    assert isinstance(data, BatchSource)
    batch = next(data)
    assert batch["labels"].flatten().tolist() == list(b"rwww")
    assert batch["input_ids"].shape == (4, 1)


def test_validation_is_on_the_real_text_alone() -> None:
    assert {label for batch in mixed().validation() for label in batch["labels"].flatten().tolist()} == set(b"r")


def test_a_resumed_mixture_goes_on_with_the_same_rows() -> None:
    straight, first, second = mixed(), mixed(), mixed()
    expected = [next(straight)["input_ids"].tolist() for _ in range(6)]
    got = [next(first)["input_ids"].tolist() for _ in range(2)]
    second.load_state_dict(first.state_dict())
    assert got + [next(second)["input_ids"].tolist() for _ in range(4)] == expected
    with pytest.raises(ValueError, match="data: the saved position belongs to seed"):
        MixedStream(stream(b"r", 8, 1), stream(b"w", 9, 3, seed=1)).load_state_dict(first.state_dict())


def test_steps_grow_so_that_the_real_text_is_read_as_often() -> None:
    assert [student_steps(100, share) for share in (0.0, 0.5, 0.75, 0.9)] == [100, 200, 400, 1000]
    with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\), got 1"):
        student_steps(100, 1.0)


def test_the_teacher_writes_a_window_after_each_first_byte() -> None:
    teacher, first = Llama(SMALL, seed=0), [3, 200, 3, 7, 255]
    texts = [
        sample_windows(teacher, first, seq_len=6, generator=torch.Generator().manual_seed(4), rows=2) for _ in range(2)
    ]
    assert [text[0] for text in texts[0]] == first
    assert {len(text) for text in texts[0]} == {7}
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][2]  # the same first byte, other draws


def test_tokens_that_are_no_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"first: expected bytes, 0 … 255, got 258"):
        sample_windows(Llama(SMALL, seed=0), [258, 1], seq_len=2, generator=torch.Generator())
