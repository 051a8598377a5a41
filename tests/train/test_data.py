import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from narrowgauge.train import BatchSource, BatchStream, ByteCorpus


def write_text(path: Path, size: int) -> Path:
    path.write_bytes((b"".join(b"%06d\n" % i for i in range(size // 7 + 1)))[:size])
    return path


def test_the_default_corpus_is_megabytes_of_source_with_a_tenth_held_out() -> None:
    corpus = ByteCorpus()
    total = corpus.train.size + corpus.validation_bytes.size
    assert 2_000_000 < total < 8_100_000
    assert corpus.validation_bytes.size / total == pytest.approx(0.1, abs=0.005)
    assert b"import " in corpus.train.tobytes()


def test_two_corpora_of_the_same_text_are_the_same(corpus: ByteCorpus) -> None:
    again = ByteCorpus(max_bytes=200_000)
    assert again.fingerprint == corpus.fingerprint
    assert np.array_equal(again.train, corpus.train)
    assert ByteCorpus(max_bytes=100_000).fingerprint != corpus.fingerprint


def test_no_file_of_the_library_is_in_both_parts(corpus: ByteCorpus) -> None:
    parts = [
        {hashlib.sha256(file).digest() for file in part.tobytes().split(b"\0")}
        for part in (corpus.train, corpus.validation_bytes)
    ]
    assert len(parts[0]) > 3
    assert not parts[0] & parts[1]


def test_one_file_is_mapped_and_its_last_tenth_held_out(tmp_path: Path) -> None:
    path = write_text(tmp_path / "text.txt", 5000)
    corpus = ByteCorpus(path)
    assert isinstance(corpus.train, np.memmap)
    assert corpus.train.tobytes() + corpus.validation_bytes.tobytes() == path.read_bytes()
    assert corpus.validation_bytes.size == 500


def test_a_folder_is_split_by_file(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"{index}.txt").write_bytes(bytes([65 + index]) * 200)
    corpus = ByteCorpus(str(tmp_path))
    held_out = set(corpus.validation_bytes.tobytes()) - {0}
    assert len(held_out) == 2
    assert not held_out & set(corpus.train.tobytes())


def test_max_bytes_limits_a_file(tmp_path: Path) -> None:
    corpus = ByteCorpus(write_text(tmp_path / "text.txt", 5000), max_bytes=2000)
    assert corpus.train.size + corpus.validation_bytes.size == 2000


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: .*nowhere does not exist; expected a text file or a folder"):
        ByteCorpus(tmp_path / "nowhere")


@pytest.mark.parametrize("size", [0, 100])
def test_a_file_that_is_too_small_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"path: .*small has {size} bytes, a corpus needs at least 1024"):
        ByteCorpus(write_text(tmp_path / "small", size))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(5000))
    with pytest.raises(ValueError, match=r"path: .*data is not text"):
        ByteCorpus(tmp_path / "data")


def test_a_folder_with_less_than_two_text_files_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "only.txt", 5000)
    with pytest.raises(ValueError, match=r"path: a corpus needs two text files.* has 1 with 5000 bytes"):
        ByteCorpus(tmp_path)


def test_max_bytes_below_the_minimum_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes: expected at least 1024, got 10"):
        ByteCorpus(max_bytes=10)


def test_a_batch_is_a_function_of_seed_and_step_alone(corpus: ByteCorpus) -> None:
    batch = corpus.batch(5, 4, 16, seed=1)
    corpus.batch(6, 4, 16, seed=1)
    again = corpus.batch(5, 4, 16, seed=1)
    assert torch.equal(batch["input_ids"], again["input_ids"])
    for step, seed in ((6, 1), (5, 2)):
        assert not torch.equal(batch["input_ids"], corpus.batch(step, 4, 16, seed=seed)["input_ids"])


def test_batches_are_the_same_on_every_machine_and_version(tmp_path: Path) -> None:
    corpus = ByteCorpus(write_text(tmp_path / "text.txt", 5000))
    # The first two words of Philox 4x64-10 with key (7, 3), modulo the 4500 - 8 possible starts.
    expected = [corpus.train[start : start + 8].tolist() for start in (4358, 1971)]
    assert corpus.batch(3, 2, 8, seed=7)["input_ids"].tolist() == expected


def test_labels_are_the_next_bytes(corpus: ByteCorpus) -> None:
    batch = corpus.batch(0, 8, 32, seed=0)
    assert batch["input_ids"].shape == batch["labels"].shape == (8, 32)
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert torch.equal(batch["input_ids"][:, 1:], batch["labels"][:, :-1])
    text = corpus.train.tobytes()
    assert all(bytes(row.tolist()) in text for row in batch["labels"])


def test_windows_start_at_every_place_that_leaves_a_label(tmp_path: Path) -> None:
    corpus = ByteCorpus(write_text(tmp_path / "text.txt", 1100))  # 990 bytes to train on: 10 windows of 981
    windows = {bytes(row.tolist()) for row in corpus.batch(0, 200, 980)["labels"]}
    text = corpus.train.tobytes()
    assert windows == {text[start + 1 : start + 981] for start in range(10)}


def test_validation_batches_are_fixed_and_different_windows(corpus: ByteCorpus) -> None:
    batches = corpus.validation(3, 4, 16)
    again = corpus.validation(3, 4, 16)
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(batches, again, strict=True))
    rows = torch.cat([batch["input_ids"] for batch in batches])
    assert rows.shape == (12, 16)
    text = corpus.validation_bytes.tobytes()
    assert bytes(rows[0].tolist()) == text[:16]
    assert bytes(rows[-1].tolist()) == text[-17:-1]


def test_one_validation_window_is_allowed(corpus: ByteCorpus) -> None:
    assert corpus.validation(1, 1, 16)[0]["labels"].shape == (1, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 16), "batch_size: expected at least 1, got 0"),
        ((0, 4, 0), "seq_len: expected 1 … "),
        ((0, 4, 10**7), "seq_len: expected 1 … .*training part of the standard library"),
        ((-1, 4, 16), "step: expected 0 or more, got -1"),
    ],
)
def test_impossible_batches_are_refused_by_name(
    corpus: ByteCorpus, arguments: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        corpus.batch(*arguments)


def test_more_validation_windows_than_there_are_is_refused(tmp_path: Path) -> None:
    corpus = ByteCorpus(write_text(tmp_path / "text.txt", 2000))
    with pytest.raises(ValueError, match="num_batches: 50 batches of 4 windows are more than the 190 different"):
        corpus.validation(50, 4, 10)


def test_a_stream_checks_its_sizes_when_it_is_built(tmp_path: Path) -> None:
    corpus = ByteCorpus(write_text(tmp_path / "text.txt", 2000))
    with pytest.raises(ValueError, match="seq_len: expected 1 … 199, as the validation part"):
        BatchStream(corpus, batch_size=1, seq_len=500)


def test_a_stream_continues_at_a_saved_position(corpus: ByteCorpus) -> None:
    stream = BatchStream(corpus, batch_size=2, seq_len=8, seed=5)
    assert isinstance(stream, BatchSource)
    for _ in range(3):
        next(stream)
    saved = stream.state_dict()
    expected = next(stream)
    resumed = BatchStream(corpus, batch_size=2, seq_len=8, seed=5)
    resumed.load_state_dict(saved)
    assert torch.equal(next(resumed)["input_ids"], expected["input_ids"])
    assert resumed.position == stream.position == 4


@pytest.mark.parametrize("change", [{"seed": 6}, {"batch_size": 3}, {"seq_len": 9}])
def test_a_position_in_another_stream_is_refused(corpus: ByteCorpus, change: dict[str, int]) -> None:
    settings = {"batch_size": 2, "seq_len": 8, "seed": 5}
    saved = BatchStream(corpus, **settings).state_dict()
    with pytest.raises(ValueError, match=f"data: the saved position belongs to {next(iter(change))}="):
        BatchStream(corpus, **settings | change).load_state_dict(saved)


def test_a_position_in_another_text_is_refused(corpus: ByteCorpus, tmp_path: Path) -> None:
    other = ByteCorpus(write_text(tmp_path / "text.txt", 5000))
    saved = BatchStream(corpus, batch_size=2, seq_len=8).state_dict()
    with pytest.raises(ValueError, match="data: the saved position belongs to corpus="):
        BatchStream(other, batch_size=2, seq_len=8).load_state_dict(saved)


def test_ranks_share_the_rows_of_the_batch_of_one_process(corpus: ByteCorpus) -> None:
    whole = BatchStream(corpus, batch_size=6, seq_len=16)
    ranks = [BatchStream(corpus, batch_size=6, seq_len=16, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(3):
        batch, shares = next(whole), [next(stream) for stream in ranks]
        for name in batch:
            assert torch.equal(torch.cat([share[name] for share in shares]), batch[name])
    assert all(stream.state_dict() == whole.state_dict() for stream in ranks)
    assert torch.equal(ranks[2].validation()[0]["labels"], whole.validation()[0]["labels"])
    with pytest.raises(ValueError, match="batch_size"):
        BatchStream(corpus, batch_size=4, seq_len=16, world_size=3)


def test_the_batches_stay_what_committed_results_were_made_of(tmp_path: Path) -> None:
    batch = ByteCorpus(write_text(tmp_path / "text.txt", 5000)).batch(step=5, batch_size=3, seq_len=8, seed=7)
    assert [bytes(row) for row in batch["input_ids"].tolist()] == [b"0050\n000", b"581\n0005", b"636\n0006"]
