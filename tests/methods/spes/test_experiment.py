import torch

from narrowgauge.methods.spes import SPES
from narrowgauge.methods.spes.experiment import Joined, shards
from narrowgauge.train import BatchStream, ByteCorpus, Context


def test_the_nodes_texts_do_not_overlap() -> None:
    corpus = ByteCorpus(max_bytes=100_000)
    parts = shards(corpus, 4)
    joined = b"".join(part.train.tobytes() for part in parts)
    assert joined == corpus.train[: len(joined)].tobytes()
    assert len(corpus.train) - len(joined) < 4
    assert len({part.fingerprint for part in parts}) == 4


def test_joined_streams_give_the_rows_of_all_and_go_on_where_they_were() -> None:
    def streams() -> list[BatchStream]:
        corpus = ByteCorpus(max_bytes=100_000)
        return [BatchStream(corpus, batch_size=2, seq_len=8, seed=seed, validation_batches=1) for seed in (0, 1)]

    joined, alone, resumed = Joined(streams()), streams(), Joined(streams())
    assert torch.equal(next(joined)["labels"], torch.cat([next(stream)["labels"] for stream in alone]))
    resumed.load_state_dict(joined.state_dict())
    assert torch.equal(next(resumed)["input_ids"], next(joined)["input_ids"])


def test_the_experiment_gives_every_number_of_its_claims() -> None:
    experiment = SPES.experiment()
    values = experiment.run(Context(seed=0, scale=0.02))
    for claim in experiment.claims:
        assert {claim.treatment, claim.control} <= values.keys()
