from narrowgauge.methods.sgft import SGFT
from narrowgauge.methods.sgft.experiment import result_accuracy
from narrowgauge.train import METHODS, Context
from narrowgauge.train.tasks import word_problems


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["sgft"] is SGFT


def test_results_are_what_stands_at_the_end() -> None:
    problems = word_problems(4, seed=0)
    assert result_accuracy([problem.work.decode() for problem in problems], problems) == 1.0
    assert result_accuracy([problem.work.decode() + ";" for problem in problems], problems) == 0.0


def test_the_experiment_gives_every_number_of_its_claims() -> None:
    experiment = SGFT.experiment()
    values = experiment.run(Context(seed=0, scale=0.004))
    for claim in experiment.claims:
        names = {name for name in (claim.treatment, claim.control) if isinstance(name, str)}
        assert names <= values.keys()
