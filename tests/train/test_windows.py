import numpy as np
import pytest
import torch

from narrowgauge.train.windows import WindowStream, batch_of_windows, choose_windows, cut_windows

TEXT = np.arange(23, dtype=np.uint8)


def test_windows_follow_one_another_and_the_rest_is_left_out() -> None:
    assert cut_windows(TEXT, 4) == [bytes(range(start, start + 5)) for start in (0, 5, 10, 15)]


def test_a_text_of_one_window_is_enough_and_a_shorter_one_is_refused() -> None:
    assert cut_windows(TEXT, 22) == [bytes(range(23))]
    with pytest.raises(ValueError, match="seq_len: expected 1 … 22 for 23 bytes, got 23"):
        cut_windows(TEXT, 23)


def test_tokens_that_are_no_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="data: expected bytes, uint8, got int64"):
        cut_windows(TEXT.astype(np.int64), 4)


def test_the_choice_has_no_window_twice_and_depends_on_the_seed_alone() -> None:
    windows = [bytes([number]) for number in range(50)]
    chosen = choose_windows(windows, 20, seed=3)
    assert len(set(chosen)) == 20
    assert chosen == choose_windows(windows, 20, seed=3) != choose_windows(windows, 20, seed=4)
    assert sorted(choose_windows(windows, 50, seed=3)) == windows
    with pytest.raises(ValueError, match="count: expected 1 … 50, got 51"):
        choose_windows(windows, 51, seed=3)


def test_every_token_has_the_next_byte_as_its_label() -> None:
    batch = batch_of_windows([b"abcd", b"wxyz"], 3)
    assert batch["input_ids"].tolist() == [list(b"abc"), list(b"wxy")]
    assert batch["labels"].tolist() == [list(b"bcd"), list(b"xyz")]
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64


def test_a_window_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="windows: window 1 has 3 bytes, expected seq_len \\+ 1 = 4"):
        batch_of_windows([b"abcd", b"abc"], 3)


def test_an_epoch_has_every_window_once() -> None:
    windows = [bytes([number, 0]) for number in range(12)]
    stream = WindowStream(windows, windows[:4], batch_size=4, seq_len=1, seed=7)
    epochs = [[row[0].item() for _ in range(3) for row in next(stream)["input_ids"]] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
