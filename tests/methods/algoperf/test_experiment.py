import math

from narrowgauge.methods.algoperf.experiment import build
from narrowgauge.train import Context


def test_a_small_run_gives_every_number_that_a_claim_needs() -> None:
    experiment = build()
    values = experiment.run(Context(seed=0, scale=0.02))
    for claim in experiment.claims:
        control = values[claim.control] if isinstance(claim.control, str) else claim.control
        assert math.isfinite(values[claim.treatment] - control)
    assert values["broken"] == 0
    assert all(0 <= values[name] <= 1 for name in ("adamw", "nadamw", "nesterov"))
