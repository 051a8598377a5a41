from narrowgauge.methods.tl_training import TLTraining
from narrowgauge.train import Context


def test_the_experiment_gives_every_number_of_its_claims() -> None:
    experiment = TLTraining.experiment()
    values = experiment.run(Context(seed=0, scale=0.005))
    for claim in experiment.claims:
        assert {claim.treatment, claim.control} - {0.05} <= values.keys()
