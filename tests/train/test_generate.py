from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import narrowgauge as ng
from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.generate import generate, sample
from narrowgauge.train.tokens import EOS, PAD, VOCAB_SIZE

CONFIG = LlamaConfig(
    dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=40, vocab_size=VOCAB_SIZE
)
PROMPTS = [[5, 6, 7], list(range(100, 117)), [9], [44, 200, 3, 8, 1, 1]]


def llama() -> Llama:
    """Weights twelve times the initial ones: completions that depend on everything before, not one token for ever."""
    model = Llama(CONFIG, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return model


class NextByte(nn.Module):
    """Says with near certainty that ``t + 1`` follows ``t``, and ``EOS`` follows 105; takes no cache."""

    def forward(self, input_ids: Tensor) -> Tensor:
        following = torch.where(input_ids == 105, EOS, (input_ids + 1) % 256)
        return 50.0 * nn.functional.one_hot(following, VOCAB_SIZE).float()


def argmax_alone(model: nn.Module, prompt: Sequence[int], count: int) -> list[int]:
    """The definition: the whole sequence of one prompt, token by token."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_completions_of_mixed_lengths_are_the_argmax_of_each_prompt_alone(use_cache: bool) -> None:
    model = llama()
    expected = [argmax_alone(model, prompt, 20) for prompt in PROMPTS]
    assert len({tuple(row) for row in expected}) == 4
    assert min(len(set(row)) for row in expected) > 5  # no model that repeats itself, which any cache would do for
    assert generate(model, PROMPTS, max_new_tokens=20, eos=None, use_cache=use_cache) == expected


@pytest.mark.parametrize("recipe", ["fp8_row", "mxfp8", "int8_torchao"])
def test_a_converted_model_whose_scales_lie_within_rows_completes_each_prompt_as_if_it_were_alone(recipe: str) -> None:
    model = ng.convert(llama(), recipe)
    batched = generate(model, PROMPTS, max_new_tokens=12, eos=None)
    assert batched == generate(model, PROMPTS, max_new_tokens=12, eos=None, use_cache=False)
    assert batched == [generate(model, [prompt], max_new_tokens=12, eos=None)[0] for prompt in PROMPTS]
    assert batched != generate(llama(), PROMPTS, max_new_tokens=12, eos=None)


@pytest.mark.parametrize("recipe", ["fp8_delayed", "nvfp4"])
def test_a_converted_model_with_other_scales_completes_and_keeps_its_state(recipe: str) -> None:
    model = ng.convert(llama(), recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = generate(model, PROMPTS, max_new_tokens=6, eos=None)
    assert [len(row) for row in rows] == [6] * 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_bfloat16_model_completes() -> None:
    assert [len(row) for row in generate(llama().bfloat16(), PROMPTS, max_new_tokens=4, eos=None)] == [4] * 4


def test_eos_ends_a_completion_and_is_not_part_of_it() -> None:
    rows = generate(NextByte(), [[100], [104, 105], [103, 104], [7]], max_new_tokens=4, use_cache=False)
    assert rows == [[101, 102, 103, 104], [], [105], [8, 9, 10, 11]]


def test_without_eos_a_completion_runs_on() -> None:
    assert generate(NextByte(), [[104]], max_new_tokens=3, eos=None, use_cache=False) == [[105, EOS, 4]]


def test_another_token_may_be_the_end() -> None:
    assert generate(NextByte(), [[100]], max_new_tokens=9, eos=103, use_cache=False) == [[101, 102]]


def test_no_prompts_give_no_completions() -> None:
    assert generate(llama(), [], max_new_tokens=3) == []


def test_a_full_context_is_used_to_its_last_column() -> None:
    prompt = list(range(37))
    assert generate(llama(), [prompt], max_new_tokens=4, eos=None) == [
        generate(llama(), [prompt], max_new_tokens=4, eos=None, use_cache=False)[0]
    ]
    with pytest.raises(
        ValueError, match="max_new_tokens: the longest prompt has 37 tokens, so at most 4 new ones fit into max_seq_len"
    ):
        generate(llama(), [[1], prompt], max_new_tokens=5)


@pytest.mark.parametrize("training", [True, False])
def test_every_module_gets_the_mode_it_had(training: bool) -> None:
    model = llama().train(training)
    model.layers[0].train(not training)
    before = [module.training for module in model.modules()]
    generate(model, PROMPTS, max_new_tokens=2)
    assert [module.training for module in model.modules()] == before


def test_dropout_is_off() -> None:
    model = llama().train()
    model.norm = nn.Sequential(model.norm, nn.Dropout(0.5))  # type: ignore[assignment]
    expected = generate(llama(), PROMPTS, max_new_tokens=5, eos=None)
    assert generate(model, PROMPTS, max_new_tokens=5, eos=None) == expected


def test_tokens_are_drawn_with_the_probabilities_of_the_temperature() -> None:
    model, temperature, count = llama(), 0.5, 4000
    with torch.no_grad():
        expected = (model(torch.tensor([[5, 6, 7]]))[0, -1].double() / temperature).softmax(-1)
    rollouts = sample(
        model,
        [[5, 6, 7]],
        num_samples=count,
        max_new_tokens=1,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )
    seen = torch.bincount(rollouts.labels[:, -1], minlength=VOCAB_SIZE) / count
    # Five standard errors of each share, and of the smallest shares one count.
    assert ((seen - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt() + 2 / count).all()
    assert expected.max() > 10 / VOCAB_SIZE


def test_top_k_leaves_only_the_likeliest() -> None:
    model = llama()
    with torch.no_grad():
        allowed = model(torch.tensor([[9]]))[0, -1].topk(3).indices
    generator = torch.Generator().manual_seed(0)
    rollouts = sample(model, [[9]], num_samples=200, max_new_tokens=1, temperature=5.0, top_k=3, generator=generator)
    assert rollouts.labels[:, -1].unique().tolist() == allowed.sort().values.tolist()


def test_top_one_is_greedy() -> None:
    drawn = generate(
        llama(), PROMPTS, max_new_tokens=8, eos=None, temperature=1.0, top_k=1, generator=torch.Generator()
    )
    assert drawn == generate(llama(), PROMPTS, max_new_tokens=8, eos=None)


def test_one_seed_gives_the_same_completions_with_and_without_a_cache_and_another_seed_others() -> None:
    def drawn(seed: int, **settings: bool) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return generate(llama(), PROMPTS, max_new_tokens=8, temperature=1.0, generator=generator, **settings)

    assert drawn(0) == drawn(0) == drawn(0, use_cache=False)
    assert drawn(0) != drawn(1)


def test_sampling_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    generate(llama(), PROMPTS, max_new_tokens=2, temperature=1.0, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_rollouts_are_a_batch_whose_labels_are_the_completion_with_its_eos() -> None:
    rollouts = sample(
        NextByte(),
        [[103, 104], [7]],
        num_samples=2,
        max_new_tokens=3,
        generator=torch.Generator().manual_seed(0),
        use_cache=False,
    )
    # 103 104 | 105 EOS and 7 | 8 9 10, each without its last token, and shifted by one.
    assert rollouts.ids.tolist() == [[103, 104, 105]] * 2 + [[7, 8, 9]] * 2
    assert rollouts.labels.tolist() == [[-100, 105, EOS]] * 2 + [[8, 9, 10]] * 2
    assert rollouts.lengths.tolist() == [2, 2, 3, 3]
    assert rollouts.completions() == [[105], [105], [8, 9, 10], [8, 9, 10]]
    assert set(rollouts.batch()) == {"input_ids", "labels"}


def test_rollouts_of_different_lengths_are_padded_on_the_right() -> None:
    settings = {"num_samples": 1, "max_new_tokens": 2, "generator": torch.Generator(), "use_cache": False}
    rollouts = sample(NextByte(), [[105], [1, 2, 3]], **settings)  # type: ignore[arg-type]
    assert rollouts.ids.tolist() == [[105, PAD, PAD, PAD], [1, 2, 3, 4]]
    assert rollouts.labels.tolist() == [[EOS, -100, -100, -100], [-100, -100, 4, 5]]
    rollouts = sample(NextByte(), [[105], [1, 2, 3]], padding=0, **settings)  # type: ignore[arg-type]
    assert rollouts.ids.tolist()[0] == [105, 0, 0, 0]


def test_rollouts_of_no_prompts_are_empty() -> None:
    rollouts = sample(llama(), [], num_samples=3, max_new_tokens=2, generator=torch.Generator())
    assert (rollouts.ids.shape, rollouts.labels.shape, rollouts.lengths.shape) == ((0, 0), (0, 0), (0,))


def test_a_model_without_a_cache_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"use_cache: NextByte.forward takes no cache; pass use_cache=False"):
        generate(NextByte(), [[1]], max_new_tokens=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        ({"temperature": -1.0}, "temperature: expected a finite number of at least 0, got -1.0"),
        ({"temperature": 0.5}, "generator: sampling with temperature=0.5 needs a torch.Generator, got None"),
        ({"top_k": 0}, "top_k: expected None or at least 1, got 0"),
        ({"prompts": [[1], []]}, "prompts: prompt 1 is empty, expected at least one token"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(llama(), **{"prompts": [[1]], "max_new_tokens": 1} | settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_samples: expected at least 1, got 0"):
        sample(llama(), [[1]], num_samples=0, max_new_tokens=1)
