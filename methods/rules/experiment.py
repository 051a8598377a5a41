"""A byte model learns to keep the rules of three scenarios, and keeps them with parameters that it has not seen."""

from __future__ import annotations

from torch import nn

from narrowgauge.methods.rules.benchmark import Report, evaluate, play_control, report
from narrowgauge.methods.rules.cases import BASIC, BENIGN, REDTEAM, Case, make_cases
from narrowgauge.methods.rules.policies import echo, leaky, model_policy, oracle, sft_examples, silent
from narrowgauge.methods.rules.scenario import HELPFUL
from narrowgauge.train import Claim, Context, Experiment, tiny_llama
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tasks import Draws, Example, TaskSource
from narrowgauge.train.tokens import VOCAB_SIZE

SCENARIOS = ("AnimalSounds", "Commitment", "Encryption")
ROWS, STEPS, LEARNING_RATE = 32, 400, 3e-3
FEW, MANY, TEST_PER_CELL, SEQ_LEN, REPLY_TOKENS = 150, 900, 40, 160, 20


def shuffled_replies(examples: list[Example], seed: int) -> list[Example]:
    """The same prompts, each with the reply of another: what is learned of the form alone."""
    answers = Draws(seed, "shuffled replies").shuffled([example.answer for example in examples])
    return [Example(example.prompt, answer) for example, answer in zip(examples, answers, strict=True)]


def _fine_tuned(context: Context, examples: list[Example]) -> nn.Module:
    longest = max(len(example.prompt + example.answer) for example in examples)
    data = TaskSource(examples, examples[:1], batch_size=ROWS, seq_len=longest, seed=context.seed)
    return context.fit(_fresh(context), data, context.steps(STEPS), lr=LEARNING_RATE).model


def _fresh(context: Context) -> nn.Module:
    return context.prepare(tiny_llama(context.seed, vocab_size=VOCAB_SIZE, max_seq_len=2 * SEQ_LEN))


def _numbers(arm: str, found: Report) -> dict[str, float]:
    return {
        f"{arm}, score": found.score,
        f"{arm}, Basic helpful": found.rate(suite=BASIC, kind=HELPFUL),
        f"{arm}, Redteam helpful": found.rate(suite=REDTEAM, kind=HELPFUL),
        f"{arm}, AnimalSounds": found.rate(suite=BASIC, scenario="AnimalSounds"),
    }


def _training_cases(context: Context) -> list[Case]:
    """Mostly those that oblige to something: refusals are learned from few."""
    few, many = context.count(FEW, 8), context.count(MANY, 8)
    return [
        *make_cases(few, seed=context.seed, scenarios=SCENARIOS, suites=(BENIGN,)),
        *make_cases(few, seed=context.seed, scenarios=("Encryption",), suites=(BASIC,)),
        *make_cases(many, seed=context.seed, scenarios=("AnimalSounds", "Commitment"), suites=(BASIC,)),
    ]


def _compare(context: Context) -> dict[str, float]:
    training = _training_cases(context)
    tests = make_cases(context.count(TEST_PER_CELL, 2), seed=derive_seed(context.seed, "test"), scenarios=SCENARIOS)
    examples = sft_examples(training, brief=True)
    values: dict[str, float] = {}
    for control in (oracle, echo, silent, leaky):
        values[f"{control.__name__}, score"] = report(play_control(tests, control)).score
    arms = {"before": None, "after": examples, "shuffled": shuffled_replies(examples, context.seed)}
    for arm, learned in arms.items():
        context.begin(arm, 0.02 if learned is None else 0.49)
        model = _fresh(context) if learned is None else _fine_tuned(context, learned)
        values |= _numbers(arm, evaluate(model_policy(model, max_new_tokens=REPLY_TOKENS), tests, brief=True))
    return values


EXPERIMENT = Experiment(
    setting="A Llama 64 wide with 2 layers on three scenarios (AnimalSounds, Commitment, Encryption) whose prompts are"
    f" the parameters alone; {STEPS} steps of {ROWS} turns of Benign and Basic cases with right replies. It is scored"
    " on cases of all three suites with other parameters. Controls: no training; the same prompts with the replies of"
    " others. A model that says nothing of use breaks rules of duties alone, and has 6.67.",
    claims=(
        Claim("score of 10, after fine-tuning against before", "after, score", "before, score", better="higher"),
        Claim("score of 10, against shuffled replies", "after, score", "shuffled, score", better="higher"),
        Claim(
            "helpful rules of Redteam cases, which were not trained on", "after, Redteam helpful",
            "before, Redteam helpful", better="higher", judged=False,
        ),
        Claim(
            "sounds of animals, against shuffled replies", "after, AnimalSounds", "shuffled, AnimalSounds",
            better="higher", judged=False,
        ),
    ),
    run=_compare,
)  # fmt: skip
