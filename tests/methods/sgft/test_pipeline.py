import pytest
import torch
from torch import Tensor, nn

from narrowgauge.methods.sgft import GuidedSolver, question_then_guidance
from narrowgauge.methods.sgft.pipeline import complete
from narrowgauge.train import Llama, LlamaConfig, Trainer
from narrowgauge.train.tasks import TaskSource, word_problems
from narrowgauge.train.tokens import VOCAB_SIZE

SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 96}
QUESTIONS = ["7, B plus 3, A twice?", "1, A plus 2, B thrice?", "5, A minus 1, B twice?"]


def model(seed: int) -> nn.Module:
    return Llama(LlamaConfig(vocab_size=VOCAB_SIZE, **SIZES), seed=seed)


def weights(of: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in of.parameters()]


def test_the_question_comes_first() -> None:
    assert question_then_guidance("How?", "So.") == "How?\nSo.\n"


def test_the_solver_is_given_the_question_and_what_the_guide_wrote() -> None:
    guide, solver = model(0), model(1)
    solutions = GuidedSolver(guide, solver, 6, 5)(QUESTIONS)
    assert [solution.guidance for solution in solutions] == complete(guide, QUESTIONS, 6)
    for question, solution in zip(QUESTIONS, solutions, strict=True):
        assert [solution.text] == complete(solver, [question_then_guidance(question, solution.guidance)], 5)


def test_guidances_can_be_anothers() -> None:
    pipeline = GuidedSolver(model(0), model(1), 6, 5, prompt=lambda question, guidance: guidance)
    assert pipeline.solve(QUESTIONS, ["a", "a", "a"])[0] == pipeline.solve(QUESTIONS[::-1], ["a", "a", "a"])[0]
    assert pipeline.solve(QUESTIONS, ["a", "", "a"])[1].guidance == ""
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        pipeline.solve(QUESTIONS, ["a"])


def test_the_solver_keeps_its_bits_while_the_guide_learns_and_both_answer() -> None:
    guide, solver = model(0), model(1)
    before, start = weights(solver), weights(guide)
    examples = [problem.guidance() for problem in word_problems(8, seed=0)]
    data = TaskSource(examples, examples, batch_size=4, seq_len=48, seed=0)
    trainer = Trainer(guide, data, torch.optim.SGD(guide.parameters(), lr=0.1))
    trainer.fit(2)
    GuidedSolver(trainer.model, solver, 6, 5)(QUESTIONS)
    assert all(map(torch.equal, before, weights(solver)))
    assert not all(map(torch.equal, start, weights(trainer.model)))
