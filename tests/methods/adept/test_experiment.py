from narrowgauge.methods.adept import ADEPT
from narrowgauge.train import Context


def test_the_experiment_gives_every_number_of_its_claims() -> None:
    experiment = ADEPT.experiment()
    values = experiment.run(Context(seed=0, scale=0.02))
    for claim in experiment.claims:
        assert {claim.treatment, claim.control} <= values.keys()
