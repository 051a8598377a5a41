"""Small tasks that tell whether something was learned; every experiment that needs one takes it from here.

A task is a pure function of a seed that returns examples; :class:`TaskSource` makes batches of them, and
:func:`accuracy` tells how many a model gets right. docs/tasks.md has them all with an example each.
"""

from narrowgauge.train.tasks.accuracy import accuracy
from narrowgauge.train.tasks.addition import addition, addition_example, with_wrong_digits
from narrowgauge.train.tasks.answers import reasoning_and_result
from narrowgauge.train.tasks.chain_sum import (
    chain_sum,
    chain_sum_answer,
    chain_sum_digits,
    chain_sum_is_right,
    chain_sum_is_well_formed,
    chain_sum_lengths,
    chain_sum_prompt,
)
from narrowgauge.train.tasks.cipher import cipher, cipher_table, translate
from narrowgauge.train.tasks.copying import copying
from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.line_kinds import LabelledLine, line_kinds
from narrowgauge.train.tasks.marked_comments import (
    comment_text,
    has_mark,
    marked_comments,
    with_marks,
    without_marks,
)
from narrowgauge.train.tasks.pairs import batch_of_pairs
from narrowgauge.train.tasks.parity import parity
from narrowgauge.train.tasks.recall import recall
from narrowgauge.train.tasks.regression import ill_conditioned_regression
from narrowgauge.train.tasks.sentences import sentence_corpus
from narrowgauge.train.tasks.source import Example, ExampleStream, TaskSource, batch_of, batch_of_tokens
from narrowgauge.train.tasks.split import Split
from narrowgauge.train.tasks.stripes import stripes
from narrowgauge.train.tasks.subjects import SubjectExample, SubjectSplit, subject_example, subjects
from narrowgauge.train.tasks.tensors import TensorExamples, TensorSource
from narrowgauge.train.tasks.tool_calls import (
    Conversation,
    Turn,
    call_prompt,
    conversation_tokens,
    conversations,
    has_error,
    render,
)
from narrowgauge.train.tasks.tools import TOOLS, Call, Tool, is_error, parse_call, run_call
from narrowgauge.train.tasks.word_problems import Operation, WordProblem, word_problems

__all__ = [
    "TOOLS",
    "Call",
    "Conversation",
    "Draws",
    "Example",
    "ExampleStream",
    "LabelledLine",
    "Operation",
    "Split",
    "SubjectExample",
    "SubjectSplit",
    "TaskSource",
    "TensorExamples",
    "TensorSource",
    "Tool",
    "Turn",
    "WordProblem",
    "accuracy",
    "addition",
    "addition_example",
    "batch_of",
    "batch_of_pairs",
    "batch_of_tokens",
    "call_prompt",
    "chain_sum",
    "chain_sum_answer",
    "chain_sum_digits",
    "chain_sum_is_right",
    "chain_sum_is_well_formed",
    "chain_sum_lengths",
    "chain_sum_prompt",
    "cipher",
    "cipher_table",
    "comment_text",
    "conversation_tokens",
    "conversations",
    "copying",
    "has_error",
    "has_mark",
    "ill_conditioned_regression",
    "is_error",
    "line_kinds",
    "marked_comments",
    "parity",
    "parse_call",
    "reasoning_and_result",
    "recall",
    "render",
    "run_call",
    "sentence_corpus",
    "stripes",
    "subject_example",
    "subjects",
    "translate",
    "with_marks",
    "with_wrong_digits",
    "without_marks",
    "word_problems",
]
