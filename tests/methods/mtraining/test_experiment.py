from narrowgauge.methods.mtraining import MTraining
from narrowgauge.train import Context


def test_the_experiment_gives_every_number_that_its_claims_name() -> None:
    experiment = MTraining.experiment()
    values = experiment.run(Context(seed=0, scale=0.01))
    for claim in experiment.claims:
        assert claim.treatment in values
        assert claim.control in values or isinstance(claim.control, float)
