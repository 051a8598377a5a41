import math

from narrowgauge.methods.infinite_compute.experiment import build
from narrowgauge.train import Context


def test_a_small_run_gives_every_number_that_a_claim_needs() -> None:
    experiment = build()
    values = experiment.run(Context(seed=0, scale=0.005))
    for claim in experiment.claims:
        control = values[claim.control] if isinstance(claim.control, str) else claim.control
        assert math.isfinite(values[claim.treatment] - control)
    assert values["standard"] == min(values[f"standard, {epochs} epochs"] for epochs in (8, 16, 32))
    assert values["4 members"] <= values["regularised"] + 1e-6
