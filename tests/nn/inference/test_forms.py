"""Every layer under a recipe, kept as codes: the bits of its forward pass, here and after a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import narrowgauge as ng
from narrowgauge.nn import recipe
from narrowgauge.nn.conv import QuantConv1d, QuantConv2d
from narrowgauge.nn.embedding import QuantEmbedding
from narrowgauge.nn.files import export, load
from narrowgauge.nn.inference import InferenceConv, InferenceEmbedding, InferenceLinear, quantize_for_inference
from narrowgauge.nn.inference.forms import form_of, has_form
from narrowgauge.nn.layer_kinds import QUANTISED
from narrowgauge.nn.transposed_linear import QuantTransposedLinear

RECIPES = {
    "fp8_row": "fp8_row",
    "tensor": recipe("tensor", every="e4m3fn"),
    "mxfp8": "mxfp8",
    "nvfp4": recipe("nvfp4", x_fprop="nvfp4", w_fprop="nvfp4"),
    "tall": recipe("tall", x_fprop="int8/row", w_fprop="int8/4x16"),
    "turned": recipe("turned", x_fprop="int8/row+h8", w_fprop="int4/1x8+h8"),
    "mapped": recipe("mapped", x_fprop="int8", w_fprop="int8", weight_map="tanh", out_fprop="bf16"),
    "learned": recipe("learned", w_fprop="int8/row", weight_map="lsq4"),
    "swinging": "tetrajet_qema",
    "weights": recipe("weights", w_fprop="int4/1x8"),
}


def image(*sizes: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, *sizes, generator=torch.Generator().manual_seed(1))


def indices() -> Tensor:
    return torch.randint(0, 40, (3, 5), generator=torch.Generator().manual_seed(1))


LAYERS: dict[str, tuple[Callable[..., nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda plan: ng.QuantLinear(40, 24, recipe=plan), image(5, 40)),
    "transposed": (lambda plan: QuantTransposedLinear(24, 24, recipe=plan), image(5, 24)),
    "conv1d": (lambda plan: QuantConv1d(8, 12, 3, padding=1, bias=False, recipe=plan), image(8, 9)),
    "conv2d": (
        lambda plan: QuantConv2d(4, 12, (3, 2), padding="same", dilation=(1, 2), padding_mode="circular", recipe=plan),
        image(4, 6, 7),
    ),
    "strided": (lambda plan: QuantConv2d(4, 6, 3, stride=(2, 1), padding=1, recipe=plan), image(4, 6, 7)),
    "grouped": (lambda plan: QuantConv2d(8, 12, 3, groups=2, recipe=plan), image(8, 6, 7)),
    "depthwise": (lambda plan: QuantConv1d(12, 12, 5, groups=12, recipe=plan), image(12, 9)),
    "embedding": (lambda plan: QuantEmbedding(40, 24, padding_idx=3, recipe=plan), indices),
}


def plain(layer: Any) -> nn.Module:
    """A layer of the original class and sizes with other values, with `transformers` out of play."""
    if isinstance(layer, QuantTransposedLinear):
        return QuantTransposedLinear(layer.nx, layer.nf, recipe="fp32")
    with torch.random.fork_rng():
        if isinstance(layer, QuantEmbedding):
            return nn.Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx)
        if isinstance(layer, ng.QuantLinear):
            return nn.Linear(layer.in_features, layer.out_features)
        return nn.Conv2d(1, 1, 1)


def content(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Metadata and tensors of a file, whose head has no fixed order."""
    with safe_open(path, framework="np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_forward_is_that_of_the_recipe_to_the_bit(kind: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs = LAYERS[kind]
    plan, x = RECIPES[name], inputs()
    try:
        layer = make(plan)
    except ValueError as error:
        pytest.skip(str(error))
    if kind != "embedding":
        for _ in range(11):
            layer(x).float().square().mean().backward()
            with torch.no_grad():
                layer.weight.sub_(0.05 * layer.weight.grad.sign())
    model = nn.Sequential(layer).eval()
    before = {key: value.clone() for key, value in model.train().state_dict().items()}
    expected = model.eval()(x)
    if kind == "embedding" and not isinstance(layer.recipe.w_fprop, ng.formats.Scheme):
        with pytest.raises(ValueError, match="leaves no codes of a table"):
            form_of(layer)
        return
    assert torch.equal(form_of(layer)(x), expected)
    model.train()
    export(model, tmp_path / "a")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    again = load(nn.Sequential(plain(layer)).eval(), tmp_path / "a")
    assert type(again[0]) in (InferenceLinear, InferenceConv, InferenceEmbedding)
    assert torch.equal(again(x), expected)
    export(again, tmp_path / "b")
    assert content(tmp_path / "b") == content(tmp_path / "a")
    assert torch.equal(quantize_for_inference(model, None).eval()(x), expected)


def test_every_kind_of_layer_has_a_form() -> None:
    assert {type(make("fp8_row")) for make, _ in LAYERS.values()} == set(QUANTISED)
    assert all(has_form(make("fp8_row")) for make, _ in LAYERS.values())


@pytest.mark.parametrize("kind", LAYERS)
def test_another_scheme_for_the_weights(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs = LAYERS[kind]
    layer = make(recipe("turned", x_fprop="int8/row+h8", w_fprop="int8/row+h8"))
    export(nn.Sequential(layer), tmp_path / "a", weights="nf4/1x8")
    again = load(nn.Sequential(plain(layer)), tmp_path / "a")
    assert again[0].scheme == "nf4/1x8"
    torch.testing.assert_close(again(inputs()), layer(inputs()), rtol=0.3, atol=0.6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (ng.QuantLinear(8, 8, recipe=recipe("a", w_fprop="int8/row+sr")), "w_fprop=.* draws anew"),
        (ng.QuantLinear(8, 8, recipe=recipe("a", x_fprop="int8:overflow=0.1", w="int8")), "has no scale before a step"),
        (ng.QuantLinear(8, 8, recipe=recipe("a", w_fprop="bf16:static=1.0")), "leaves no codes of the weight"),
        (ng.QuantLinear(8, 8, recipe="int4"), "maps its input by"),
        (QuantEmbedding(8, 8, recipe=recipe("a", w_fprop="int8/row"), max_norm=1.0), "max_norm=1.0 changes the table"),
    ],
)
def test_what_codes_cannot_repeat_is_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        form_of(layer)


def test_gradients_reach_the_input_of_a_convolution() -> None:
    torch.manual_seed(0)
    layer = QuantConv2d(4, 6, 3, groups=2, recipe=recipe("forward", x_fprop="int8/row", w_fprop="int8/row"))
    kept = form_of(layer)
    assert isinstance(kept, InferenceConv)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    y = kept(x)
    g = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, x, g)
    expected = torch.nn.grad.conv2d_input(x.shape, kept.weight, g, groups=2)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-5)
    assert not list(kept.parameters())
    with pytest.raises(ValueError, match="input: expected 4 axes"):
        kept(torch.randn(2, 3, 6, 6))


def test_dtypes_follow_the_input_and_casts_leave_the_numbers_alone() -> None:
    torch.manual_seed(0)
    layer = QuantConv1d(4, 6, 3, recipe="mxfp8", dtype=torch.bfloat16)
    x = torch.randn(2, 4, 9, dtype=torch.bfloat16)
    kept = form_of(layer)
    assert torch.equal(kept(x), layer(x))
    codes = kept.codes.clone()
    assert kept.half().weight.dtype == torch.float16
    assert torch.equal(kept.codes, codes)
    assert "kernel_size=(3,)" in repr(kept)
