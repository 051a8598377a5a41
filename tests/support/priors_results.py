"""Results of the pipeline of priors with planted numbers."""

from __future__ import annotations

from narrowgauge.bench.priors_run import PipelineResult, PipelineRun
from narrowgauge.bench.priors_stages import Form, Stage

STRENGTH = 1e-4
SEEDS = (0, 1, 2)
CURVE = ((2.0**-10, 2.00, 8.0, 8.5), (2.0**-8, 2.01, 6.0, 6.5), (2.0**-6, 2.03, 4.0, 4.5), (2.0**-4, 2.50, 2.0, 2.5))
CHEAPER = tuple((step, loss, entropy - 0.5, bits - 0.5) for step, loss, entropy, bits in CURVE)
DEARER = tuple((step, loss, entropy + 0.5, bits + 0.5) for step, loss, entropy, bits in CURVE)
WIGGLE = (0.0, 0.001, -0.001)


def stage(state: str, form: str, loss: float, bits: float) -> Stage:
    return Stage(
        state=state,
        form=form,
        nbytes=round(1000 * bits),
        parameters=1000,
        exp_golomb_0=bits,
        exp_golomb=bits - 0.1,
        order=0,
        entropy=bits - 0.2,
        zeros=0.5,
        shape=0.5,
        code_bits=bits,
        loss=loss,
        seconds=1.0,
        tokens_per_s=1e4,
    )


def result(
    run: PipelineRun,
    *,
    loss: float = 2.0,
    bits: float = 7.0,
    area: float = 3.0,
    rf8: float = 1.0,
    reshaped=CURVE,
    diverged: bool = False,
) -> PipelineResult:
    """A run that ends at `loss`, of which rf8/row has `rf8` times as much."""
    loss *= 1 + WIGGLE[run.seed]
    stages = [stage("init", "fp32", 5.5, bits), stage("trained", "fp32", loss * 1.1, bits)]
    stages += [
        stage("fine-tuned", str(form), loss * (rf8 if form is Form.RF8_ROW else 1.0), bits * (1 + WIGGLE[run.seed]))
        for form in Form
    ]
    for state in ("recovered", "deepshape"):
        stages += [stage(state, form, loss, bits) for form in ("fp32", "fp16", "e4m3", "step", "rf8")]
    return PipelineResult(
        run=run,
        final_loss=None if diverged else loss,
        note="loss is nan at step 3" if diverged else "",
        train_curve=([5, 10], [area, area]),
        val_curve=([5, 10], [area + 1 + WIGGLE[run.seed], area - 1]),
        step_ms=10.0,
        seconds=1.0,
        machine={"cpu": "some"},
        stages=() if diverged else tuple(stages),
        curves={} if diverged else {"recovered": CURVE, "deepshape": reshaped},
    )


def arms(plain=None, gg=None, rate=None, both=None, seeds=SEEDS) -> list[PipelineResult]:
    made = []
    for seed in seeds:
        made += [
            result(PipelineRun(seed), **(plain or {})),
            result(PipelineRun(seed, 1.0), **(gg or {})),
            result(PipelineRun(seed, 2.0, STRENGTH), **(rate or {"bits": 3.0})),
            result(PipelineRun(seed, 1.0, STRENGTH), **(both or {"bits": 3.0})),
        ]
    return made
