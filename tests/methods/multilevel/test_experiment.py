from narrowgauge.methods.multilevel import Multilevel
from narrowgauge.train import METHODS, Context


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["multilevel"] is Multilevel


def test_the_experiment_gives_every_number_that_its_claims_name() -> None:
    experiment = Multilevel.experiment()
    values = experiment.run(Context(seed=0, scale=0.01))
    for claim in experiment.claims:
        assert claim.treatment in values
        assert claim.control in values or isinstance(claim.control, float)
