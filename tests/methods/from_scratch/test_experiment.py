import math

from narrowgauge.methods.from_scratch.experiment import build
from narrowgauge.train import Context


def test_a_small_run_gives_every_number_that_a_claim_needs() -> None:
    experiment = build()
    values = experiment.run(Context(seed=0, scale=0.02))
    for claim in experiment.claims:
        assert math.isfinite(values[claim.treatment])
    assert values["everything: loss"] == values["everything: weights"] == values["everything: windows twice"] == 0
    assert values["without optimizer: first loss"] == 0
    assert values["without position: windows twice"] > 0
