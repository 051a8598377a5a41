from narrowgauge.methods.rules import RuLES
from narrowgauge.methods.rules.experiment import shuffled_replies
from narrowgauge.train import METHODS, Context
from narrowgauge.train.tasks import Example


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["rules"] is RuLES


def test_shuffled_replies_are_the_same_ones() -> None:
    examples = [Example(b"a%d" % i, b"b%d" % i) for i in range(20)]
    mixed = shuffled_replies(examples, 0)
    assert [e.prompt for e in mixed] == [e.prompt for e in examples]
    assert {e.answer for e in mixed} == {e.answer for e in examples}
    assert mixed != examples


def test_the_experiment_gives_every_number_of_its_claims() -> None:
    experiment = RuLES.experiment()
    values = experiment.run(Context(seed=0, scale=0.005))
    for claim in experiment.claims:
        assert {claim.treatment, claim.control} <= values.keys()
    assert values["oracle, score"] == 10.0
