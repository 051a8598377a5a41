"""What ADEPT claims, at the size of a byte model: less of the general text is forgotten, at equal steps and at equal
loss on the domain's text, and the least important block is a good place to grow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

from narrowgauge.train import Batch, BatchStream, ByteCorpus, Claim, Context, Experiment, Method, tiny_llama
from narrowgauge.train.domains import domain
from narrowgauge.train.tradeoff import TradeOff, lowest_first, second_at

ROWS, LENGTH = 16, 64
BASE_STEPS, DOMAIN_STEPS, REFRESH = 400, 160, 40


def _compare(adept: Callable[..., Method], context: Context) -> dict[str, float]:
    general = ByteCorpus(max_bytes=1_000_000)
    sizes = {"batch_size": ROWS, "seq_len": LENGTH, "seed": context.seed, "validation_batches": context.count(4)}
    library = BatchStream(general, **sizes)
    prose = domain("topics")
    context.begin("the base, on the standard library", 0.35)
    base = tiny_llama(context.seed, num_layers=4)
    context.fit(context.prepare(base), library, context.steps(BASE_STEPS))
    steps, refresh = context.steps(DOMAIN_STEPS), context.steps(REFRESH)
    at = {round(steps * (i / 24) ** 2) for i in range(1, 25)}  # close together in the beginning, where losses move fast

    def probe(number: int) -> list[Batch]:
        return [general.batch(1_000_000 + 4 * number + i, ROWS, LENGTH, context.seed) for i in range(context.count(4))]

    settings = {"general": probe, "refresh": refresh}
    arms: dict[str, tuple[float, list[Method]]] = {
        "full": (3e-3, []),
        "full at a third of the rate": (1e-3, []),
        "adept": (3e-3, [adept(**settings)]),
        "adept without stage 2": (3e-3, [adept(general=probe, refresh=0)]),
        "adept, most important": (3e-3, [adept(**settings, place="most")]),
    }
    runs = {}
    for name, (rate, methods) in arms.items():
        context.begin(f"the domain: {name}", 0.65 / len(arms))
        data = BatchStream(prose, **sizes)
        trace = TradeOff(data.validation(), library.validation(), at)
        context.fit(copy.deepcopy(base), data, steps, lr=rate, methods=[*methods, trace])
        runs[name] = trace.points
    level = max(lowest_first(runs["full"]), lowest_first(runs["adept"]))
    before = runs["full"][0][1]
    values = {f"domain, {name}": points[-1][0] for name, points in runs.items()}
    values |= {f"forgotten, {name}": points[-1][1] - before for name, points in runs.items()}
    values |= {f"general at equal domain loss, {name}": second_at(runs[name], level) for name in ("full", "adept")}
    return {**values, "0.75 of what full training forgets": 0.75 * values["forgotten, full"], "domain level": level}


def adept_experiment(adept: Callable[..., Method]) -> Experiment:
    """See the module; ``adept`` makes the method of settings."""
    return Experiment(
        setting=f"A Llama 64 wide with 4 layers, {BASE_STEPS} steps on 1 MB of the standard library's code; then"
        f" {DOMAIN_STEPS} steps on the prose of its language reference, learning rate 0.003. ADEPT grows by"
        f" one block and sets the rates every {REFRESH} steps. What is forgotten is the rise of the loss on the"
        " library; equal domain loss is the best that both arms reach.",
        claims=(
            Claim("forgotten at equal steps", "forgotten, adept", "0.75 of what full training forgets"),
            Claim(
                "general loss at equal domain loss",
                "general at equal domain loss, adept",
                "general at equal domain loss, full",
            ),
            Claim(
                "domain loss of growth behind the least important block, against the most important",
                "domain, adept",
                "domain, adept, most important",
                margin=-0.01,
            ),
            Claim(
                "domain loss with learning rates by tensor",
                "domain, adept",
                "domain, adept without stage 2",
                judged=False,
            ),
        ),
        run=partial(_compare, adept),
        seeds=5,
    )
