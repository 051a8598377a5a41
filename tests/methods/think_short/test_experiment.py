import pytest

from narrowgauge.methods.think_short import ThinkShort
from narrowgauge.train import Context


@pytest.mark.slow
def test_the_experiment_gives_the_numbers_of_its_claims() -> None:
    experiment = ThinkShort.experiment()
    values = experiment.run(Context(seed=0, scale=0.01))
    for claim in experiment.claims:
        assert claim.treatment in values
        assert isinstance(claim.control, float) or claim.control in values
    assert values["start: length"] > 0
