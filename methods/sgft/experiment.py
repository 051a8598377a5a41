"""Word problems by a guide and a frozen solver, against answers and chains of thought by one model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import fmean

from torch import nn

from narrowgauge.methods.sgft.guidance import GuidanceCheck, guidance_examples
from narrowgauge.methods.sgft.lisa import LISA
from narrowgauge.methods.sgft.pipeline import GuidedSolver, Solution, complete
from narrowgauge.train import Claim, Context, Experiment, Method, tiny_llama
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tasks import Example, TaskSource, WordProblem, word_problems
from narrowgauge.train.tokens import VOCAB_SIZE

SOLVER_PROBLEMS, SAMPLES, TESTS = 4000, 400, 200
SOLVER_STEPS, STEPS, ROWS = 700, 500, 32
PLAN_TOKENS, WORK_TOKENS, SEQ_LEN = 12, 24, 60
CHANCE = 0.2
"""One of ten digits is right by chance; some are likelier than others."""


def plan_steps(plan: str) -> list[str]:
    """The operations of a plan such as ``7|dp3>``."""
    return re.findall(r"[pmdt]\d?", plan.partition("|")[2])


PLAN_CHECK = GuidanceCheck(split=plan_steps)


def only_guidance(question: str, guidance: str) -> str:
    """The solver's prompt here: a tiny model that was trained on plans reads nothing else."""
    return guidance


def _questions(problems: Sequence[WordProblem]) -> list[str]:
    return [problem.question.decode() for problem in problems]


def _plans(problems: Sequence[WordProblem]) -> list[str]:
    return [problem.plan.decode() for problem in problems]


def result_accuracy(texts: Sequence[str], problems: Sequence[WordProblem]) -> float:
    """Share of texts whose end is the right result."""
    return fmean(text[-2:].encode() == problem.result for text, problem in zip(texts, problems, strict=True))


def _texts(solutions: Sequence[Solution]) -> list[str]:
    return [solution.text for solution in solutions]


def _fit(context: Context, label: str, examples: Sequence[Example], steps: int, *methods: Method) -> nn.Module:
    context.begin(label, steps / (SOLVER_STEPS + 4 * STEPS))
    longest = max(len(example.prompt + example.answer) for example in examples)
    data = TaskSource(examples, examples[:1], batch_size=ROWS, seq_len=longest, seed=context.seed)
    model = context.prepare(tiny_llama(context.seed, vocab_size=VOCAB_SIZE, max_seq_len=2 * SEQ_LEN))
    return context.fit(model, data, context.steps(steps), methods=methods).model


def _compare(context: Context) -> dict[str, float]:
    problems = word_problems(context.count(SAMPLES, 32) + context.count(TESTS, 8), seed=context.seed)
    train, tests = problems[: context.count(SAMPLES, 32)], problems[context.count(SAMPLES, 32) :]
    plenty = word_problems(context.count(SOLVER_PROBLEMS, 32), seed=derive_seed(context.seed, "solver"))
    questions, plans = _questions(tests), _plans(tests)
    targets: dict[str, Callable[[WordProblem], Example]] = {
        "direct": WordProblem.direct,
        "CoT": WordProblem.chain_of_thought,
    }
    values: dict[str, float] = {}
    for arm, target in targets.items():
        model = _fit(context, arm, [target(problem) for problem in train], STEPS)
        values[arm] = result_accuracy(complete(model, questions, WORK_TOKENS), tests)
    solver = _fit(context, "solver", [problem.execution() for problem in plenty], SOLVER_STEPS)
    guidances = guidance_examples(zip(_questions(train), _plans(train), strict=True), PLAN_CHECK).examples
    for arm, methods in (("SGFT", ()), ("SGFT with LISA", (LISA(every=5, seed=context.seed),))):
        guide = _fit(context, f"guide of {arm}", guidances, STEPS, *methods)
        pipeline = GuidedSolver(guide, solver, PLAN_TOKENS, WORK_TOKENS, only_guidance)
        solutions = pipeline(questions)
        values[arm] = result_accuracy(_texts(solutions), tests)
        values[f"{arm}, plan right"] = fmean(
            solution.guidance == plan for solution, plan in zip(solutions, plans, strict=True)
        )
        if arm == "SGFT":
            wrong = solutions[1:] + solutions[:1]
            others = [solution.guidance for solution in wrong]
            values["plan of another problem"] = result_accuracy(_texts(pipeline.solve(questions, others)), tests)
            values["right plan"] = result_accuracy(_texts(pipeline.solve(questions, plans)), tests)
    product = values["SGFT, plan right"] * values["right plan"]
    return values | {
        "off the product": abs(values["SGFT"] - product),
        "bytes learned, SGFT": fmean(len(example.answer) for example in guidances),
        "bytes learned, CoT": fmean(len(problem.work) for problem in train),
    }


EXPERIMENT = Experiment(
    setting="Word problems modulo 10 with clauses in random order. Llamas 64 wide with 2 layers, from the same weights:"
    f" on {SAMPLES} problems, {STEPS} steps of {ROWS} each, one learns results, one chains of thought, one (the guide)"
    f" plans. A solver learns to carry out plans, {SOLVER_STEPS} steps on {SOLVER_PROBLEMS} others, and is frozen;"
    " unlike the paper's, it has to be trained for that, and it reads the plan alone. Accuracy of the result is greedy,"
    f" on {TESTS} new problems.",
    claims=(
        Claim("guide and solver against direct answers", "SGFT", "direct", better="higher", margin=0.3),
        Claim("guide and solver against a chain of thought", "SGFT", "CoT", better="higher", margin=-0.05),
        Claim("bytes learned for each problem", "bytes learned, SGFT", "bytes learned, CoT"),
        Claim("accuracy with another problem's plan, against chance", "plan of another problem", CHANCE),
        Claim(
            "distance to the share of right plans times the solver's accuracy on right plans", "off the product", 0.2
        ),
        Claim("a guide trained with LISA", "SGFT with LISA", "SGFT", better="higher", margin=-0.05, judged=False),
    ),
    run=_compare,
    seeds=5,
)
