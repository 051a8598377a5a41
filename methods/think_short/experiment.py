"""The experiment of Train Long, Think Short: sums whose length is free, under budgets that shrink."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from narrowgauge.methods.think_short.schedule import ExponentialBudget
from narrowgauge.train import Claim, Constant, Context, Experiment, Method, Trainer, tiny_llama
from narrowgauge.train.generate import sample
from narrowgauge.train.rl import RolloutSource
from narrowgauge.train.rl.rewards import Completion
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tasks import (
    Example,
    TaskSource,
    chain_sum,
    chain_sum_digits,
    chain_sum_is_right,
    chain_sum_is_well_formed,
    chain_sum_prompt,
)
from narrowgauge.train.tokens import VOCAB_SIZE, decode, encode

START, END, CUTS = 33, 21, 3
"""The longest and the shortest chain of four digits with up to four dots a step, in tokens."""
TOO_SHORT, STARVING_CUTS = 8, 5
STAGE_STEPS, FIXED_STEPS, FLAT_STEPS, STARVING_STEPS = 30, 120, 30, 20
PROMPTS, GROUP, MAX_NEW_TOKENS, SEQ_LEN = 6, 8, 34, 41
PAYS_ANSWERS, PAYS_LENGTH = (0.6, 0.3, 0.1), (0.3, 0.6, 0.1)
"""Weights of answer, length, form."""


def think_short_experiment(method: Callable[..., Method]) -> Experiment:
    """Accuracy and length after each arm; ``method`` makes the plug-in from its settings."""
    return Experiment(
        setting="A byte model 64 wide with 2 layers is trained for 1200 steps of 32 to write '3+5=8;..8+7=5;..5+1=6;#6'"
        " (21 to 33 tokens, dots are free) after '3571|28:'. Then 120 updates of 6 prompts with 8 completions at 3e-4,"
        " divergence 0.01, weights of answer, length and form 0.6, 0.3, 0.1: 'curriculum' has the budgets 33, 28, 24,"
        " 21 for 30 updates each, 'fixed' has 21, 'no length reward' the curriculum's prompts. Two failures: 'flat' has"
        " the budget 8, less than half of any answer (30 updates); 'starved' goes from 33 to 8 in 5 cuts, 20 updates"
        " each, with weights 0.3, 0.6, 0.1. Lengths and accuracies are of 200 held-out sums at temperature 1 with the"
        " arm's last budget in the prompt ('start': 21).",
        claims=(
            Claim("distance of the length from the last budget, as a share of it", "curriculum: distance", 0.1),
            Claim(
                "accuracy, at most 0.1 below the start",
                "curriculum: accuracy",
                "start: accuracy",
                better="higher",
                margin=-0.1,
            ),
            Claim("length in tokens after the third budget against the second", "length after 24", "length after 28"),
            Claim("length in tokens after the fourth budget against the third", "length after 21", "length after 24"),
            Claim("length in tokens, curriculum against the start", "length after 21", "start: length"),
            Claim(
                "accuracy, curriculum against a fixed budget",
                "curriculum: accuracy",
                "fixed: accuracy",
                better="higher",
                judged=False,
            ),
            Claim(
                "length in tokens, curriculum against no length reward",
                "length after 21",
                "no length reward: length",
                judged=False,
            ),
            Claim(
                "a budget below half of every answer shortens nothing: length in tokens",
                "flat: length",
                END - 0.5,
                better="higher",
                judged=False,
            ),
            Claim("a budget below the shortest right answer: accuracy", "starved: accuracy", 0.3, judged=False),
        ),
        run=partial(_compare, method),
        seeds=5,
    )


def _compare(method: Callable[..., Method], context: Context) -> dict[str, float]:
    train, held_out = chain_sum(context.count(6000, 48), context.count(200, 4), seed=context.seed)
    context.begin("start", 0.3)
    data = TaskSource(train, held_out, batch_size=32, seq_len=SEQ_LEN, seed=context.seed)
    model = context.prepare(tiny_llama(context.seed, vocab_size=VOCAB_SIZE, max_seq_len=64))
    start = context.fit(model, data, context.steps(1200), lr=5e-3).model
    values = _named("start", _measure(start, held_out, END, context.seed))

    def run(schedule: ExponentialBudget, steps: int, weights: Sequence[float] = PAYS_ANSWERS) -> Trainer:
        right, length, form = weights
        plug_in = method(schedule=schedule, write=_with_budget, weight=length, kl_coef=0.01)
        rollouts = RolloutSource(
            lambda index: [train[(index * PROMPTS + item) % len(train)] for item in range(PROMPTS)],
            {"right": _is_right, "form": _is_well_formed},
            weights={"right": right, "form": form},
            group_size=GROUP,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=context.seed,
        )
        settings: dict[str, Any] = {"schedule": Constant(3e-4), "lr": 3e-4, "weight_decay": 0.0}
        return context.fit(copy.deepcopy(start), rollouts, steps, methods=[plug_in], **settings)

    context.begin("curriculum", 0.2)
    stage = context.steps(STAGE_STEPS)
    schedule = ExponentialBudget.to(END, start=START, cuts=CUTS, interval=stage)
    trainer = run(schedule, stage)
    for index in range(CUTS + 1):
        trainer.fit((index + 1) * stage)
        budget = schedule(index * stage)
        measured = _measure(trainer.model, held_out, budget, context.seed)
        values[f"length after {budget}"] = measured["length"]
    values |= _named("curriculum", measured)
    values["curriculum: distance"] = abs(measured["length"] / END - 1)

    right, length, form = PAYS_ANSWERS
    arms: dict[str, tuple[ExponentialBudget, int, Sequence[float]]] = {
        "fixed": (ExponentialBudget(END, 1.0), context.steps(FIXED_STEPS), PAYS_ANSWERS),
        "no length reward": (schedule, (CUTS + 1) * stage, (right + length, 0.0, form)),
        "flat": (ExponentialBudget(TOO_SHORT, 1.0), context.steps(FLAT_STEPS), PAYS_ANSWERS),
    }
    interval = context.steps(STARVING_STEPS)
    starving = ExponentialBudget.to(TOO_SHORT, start=START, cuts=STARVING_CUTS, interval=interval)
    arms["starved"] = (starving, (STARVING_CUTS + 1) * interval, PAYS_LENGTH)
    for arm, (schedule, steps, weights) in arms.items():
        context.begin(arm, 0.125)
        trained = run(schedule, steps, weights).model
        values |= _named(arm, _measure(trained, held_out, schedule(steps - 1), context.seed))
    return values


def _with_budget(item: Example, budget: int) -> bytes:
    return chain_sum_prompt(chain_sum_digits(item.prompt), budget)


def _is_right(item: Example, completion: Completion) -> float:
    return float(chain_sum_is_right(item.prompt, completion.text.encode()))


def _is_well_formed(item: Example, completion: Completion) -> float:
    return float(completion.ended and chain_sum_is_well_formed(item.prompt, completion.text.encode()))


def _measure(model: nn.Module, items: Sequence[Example], budget: int, seed: int) -> dict[str, float]:
    """Share of right answers and mean length in tokens, the end included, of one completion of each item."""
    prompts = [_with_budget(item, budget) for item in items]
    rows = sample(
        model,
        [encode(prompt) for prompt in prompts],
        num_samples=1,
        max_new_tokens=MAX_NEW_TOKENS,
        generator=torch.Generator().manual_seed(derive_seed(seed, "measure")),
    )
    texts = [decode(row).encode() for row in rows.completions()]
    right = sum(chain_sum_is_right(prompt, text) for prompt, text in zip(prompts, texts, strict=True))
    return {"accuracy": right / len(items), "length": rows.lengths.double().mean().item()}


def _named(arm: str, measured: dict[str, float]) -> dict[str, Any]:
    return {f"{arm}: {name}": value for name, value in measured.items()}
