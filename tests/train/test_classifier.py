import math

import pytest
import torch
from torch import Tensor, nn

import narrowgauge as ng
from narrowgauge.train import Trainer
from narrowgauge.train.classifier import ConvNet, MLPClassifier
from narrowgauge.train.tasks import TensorExamples, TensorSource, stripes

SHAPE = (2, 7, 8)
KINDS = [MLPClassifier, ConvNet]


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_have_a_value_for_each_class_and_depend_on_their_row_alone(kind: type[ConvNet | MLPClassifier]) -> None:
    model = kind(SHAPE, 5)
    logits = model(images(4))
    assert logits.shape == (4, 1, 5)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(model(images(4)[2:3])[0], logits[2])
    assert not torch.equal(logits[0], logits[1])
    assert model(images(0)).shape == (0, 1, 5)


def test_sizes_are_what_was_asked() -> None:
    shapes = {name: tuple(p.shape) for name, p in MLPClassifier(SHAPE, 5, width=16, depth=3).named_parameters()}
    assert shapes == {
        "hidden.0.weight": (16, 112),
        "hidden.0.bias": (16,),
        "hidden.1.weight": (16, 16),
        "hidden.1.bias": (16,),
        "hidden.2.weight": (16, 16),
        "hidden.2.bias": (16,),
        "head.weight": (5, 16),
        "head.bias": (5,),
    }
    shapes = {name: tuple(p.shape) for name, p in ConvNet(SHAPE, 5, width=4).named_parameters()}
    assert shapes == {
        "convolutions.0.weight": (4, 2, 3, 3),
        "convolutions.0.bias": (4,),
        "convolutions.1.weight": (8, 4, 3, 3),
        "convolutions.1.bias": (8,),
        "convolutions.2.weight": (16, 8, 3, 3),
        "convolutions.2.bias": (16,),
        "head.weight": (5, 16),
        "head.bias": (5,),
    }
    assert ConvNet(SHAPE, 5, width=4).num_parameters() == 76 + 296 + 1168 + 85


def test_the_convolutions_halve_the_image_twice() -> None:
    model, sizes = ConvNet(SHAPE, 5), []
    for layer in model.convolutions:
        layer.register_forward_hook(lambda _layer, _inputs, out: sizes.append(tuple(out.shape[2:])))
    model(images(1))
    assert sizes == [(7, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_initial_spread_is_that_of_the_fan_in(kind: type[ConvNet | MLPClassifier]) -> None:
    model = kind((8, 8, 8), 50, width=64)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            assert (parameter == 0).all()
        else:
            # At least 3200 numbers: five standard errors of the estimate are below 7 %.
            assert parameter.std().item() == pytest.approx(math.sqrt(2 / parameter[0].numel()), rel=0.07)


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_the_same_bits_and_the_global_generator_is_left_alone(
    kind: type[ConvNet | MLPClassifier],
) -> None:
    before = torch.get_rng_state()
    first, again, other = (kind(SHAPE, 5, seed=seed).head.weight for seed in (1, 1, 2))
    given = kind(SHAPE, 5, seed=2, generator=torch.Generator().manual_seed(1)).head.weight
    assert torch.equal(first, again)
    assert torch.equal(first, given)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def share_right(model: nn.Module, examples: TensorExamples, steps: int) -> float:
    """Held-out accuracy after training by the trainer."""
    train, held_out = examples.split(400)
    data = TensorSource(train, held_out, batch_size=64, seed=0)
    Trainer(model, data, torch.optim.AdamW(model.parameters(), lr=1e-2)).fit(steps)
    with torch.no_grad():
        return (model(held_out.inputs).argmax(-1) == held_out.labels).float().mean().item()


@pytest.mark.parametrize("recipe", [None, "fp8_row"])
def test_convolutions_learn_the_direction_of_stripes(recipe: str | None) -> None:
    model: nn.Module = ConvNet((1, 8, 8), 4, width=4)
    if recipe is not None:
        ng.convert(model, recipe, layers=("linear", "conv"), skip=("head",))
    assert share_right(model, stripes(2000, seed=0), steps=50) > 0.9


def test_a_perceptron_learns_what_is_no_linear_function() -> None:
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    examples = TensorExamples(x, (x.prod(-1, keepdim=True) > 0).long())
    assert share_right(MLPClassifier((2,), 2, width=32), examples, steps=60) > 0.9
    # Whether two signs are equal cannot be told by a line.
    assert share_right(nn.Sequential(nn.Linear(2, 2), nn.Unflatten(1, (1, 2))), examples, steps=60) < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused_by_name(kind: type[ConvNet | MLPClassifier]) -> None:
    with pytest.raises(ValueError, match=r"inputs: expected shape \[batch, 2, 7, 8\], got \(3, 2, 8, 7\)"):
        kind(SHAPE, 5)(torch.zeros(3, 2, 8, 7))
    with pytest.raises(ValueError, match=r"input_shape: expected sizes of at least 1, got \(0, 7, 8\)"):
        kind((0, 7, 8), 5)
    with pytest.raises(ValueError, match=r"input_shape: expected \(channels, height, width\), got \(8,\)"):
        ConvNet((8,), 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
        kind(SHAPE, 0)
    with pytest.raises(ValueError, match="width: expected at least 1, got 0"):
        kind(SHAPE, 5, width=0)
