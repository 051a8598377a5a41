from narrowgauge.methods.rules import Message, make_cases, model_policy, one_by_one, render, sft_examples
from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.tokens import VOCAB_SIZE

TALK = (Message("system", "Be\nkind."), Message("user", "Hi"))


def test_a_turn_is_a_line() -> None:
    assert render(TALK) == b"S:Be kind.\nU:Hi\nA:"


def test_training_examples_have_a_right_reply_to_every_turn() -> None:
    cases = make_cases(2, seed=0)
    examples = sft_examples(cases)
    assert len(examples) == sum(len(case.turns) for case in cases)
    first, second = sft_examples([case for case in cases if len(case.turns) == 2][:1])
    assert second.prompt.startswith(first.prompt + first.answer + b"\nU:")
    assert all(e.answer and b"\n" not in e.answer for e in examples)


def test_brief_examples_have_the_parameters_alone() -> None:
    examples = sft_examples(make_cases(1, seed=0, scenarios=["Integrity"], suites=["Basic"]), brief=True)
    assert examples[0].prompt == b"U:Integrity|" + examples[0].answer + b"\nA:ok\nU:Repeat\nA:"


def test_a_model_replies_until_the_turn_ends() -> None:
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 64}
    model = Llama(LlamaConfig(vocab_size=VOCAB_SIZE, **sizes), seed=0)
    policy = model_policy(model, max_new_tokens=8, batch_size=2)
    replies = policy([TALK, TALK[1:], TALK])
    assert len(replies) == 3
    assert replies[0] == replies[2]
    assert all(len(reply) <= 8 and "\n" not in reply for reply in replies)


def test_a_function_of_one_conversation_is_a_policy() -> None:
    assert one_by_one(lambda talk: talk[-1].text)([TALK, TALK]) == ["Hi", "Hi"]
