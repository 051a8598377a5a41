"""InferenceLinear: its products are those of the decoded weight, in every scheme, shape and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge import formats
from narrowgauge.nn import RECIPES, SLOTS, QuantLinear, recipe
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.operand import is_coded
from narrowgauge.nn.transposed_linear import QuantTransposedLinear

T, N, K = 11, 40, 72
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SCHEMES = (
    "int8/row", "int8", "int8/1x24", "int8/16x16", "int8/col", "e4m3fn/row", "e5m2/1x32", "rf8/row", "dynamic8/1x64",
    "int4/1x32", "int4/row", "nf4/1x64", "bnb_fp4/1x16", "e2m1fn/8x8", "int6/1x16", "int3/1x24", "int5",
    "e3m2fn/row", "int2/1x8", "mxfp8",
    "mxfp4", "mxfp6", "nvfp4", "nvfp4_2d", "mx6", "hbfp4", "uint8/row",
)  # fmt: skip


def linear(k: int = K, n: int = N, dtype: torch.dtype = torch.float32, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(k, n, bias, dtype=dtype)


def decoded(weight: torch.Tensor, scheme: str) -> np.ndarray:
    """The weight after quantisation, by the numpy definition; float32 numbers in float64."""
    wide = weight.detach() if weight.dtype != torch.bfloat16 else weight.detach().float()
    q = formats.quantize_reference(wide.numpy(), scheme)
    return np.float32(q.dequantize()).astype(np.float64)


def assert_product(y: torch.Tensor, x: torch.Tensor, w: np.ndarray, bias: torch.Tensor | None) -> None:
    """y is x · wᵀ + bias up to γ_n |x||w|ᵀ of the accumulator and the roundings of weight and output."""
    a = x.detach().double().numpy()
    unit = torch.finfo(y.dtype).eps / 2
    added = 0.0 if bias is None else bias.detach().double().numpy()
    expected, magnitude = a @ w.T + added, np.abs(a) @ np.abs(w).T + np.abs(added)
    n = a.shape[1] + 8
    sums = n * 2.0**-24 / (1 - n * 2.0**-24)
    rounded = unit if y.dtype in (torch.bfloat16, torch.float16) else 0.0
    bound = (sums + rounded) * magnitude + 2 * rounded * (np.abs(expected) + magnitude) + 1e-30
    if y.dtype == torch.float16:
        bound = bound + 2.0**-24 * (1 + np.abs(a).sum(1, keepdims=True))
    assert (np.abs(y.detach().double().numpy() - expected) <= bound).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weight_only_is_the_product_of_the_decoded_weight(scheme: str) -> None:
    plain = linear()
    layer = InferenceLinear.from_linear(plain, scheme)
    x = torch.randn(2, T, K)
    y = layer(x)
    assert y.shape == (2, T, N)
    assert np.array_equal(layer.dequantize().double().numpy(), decoded(plain.weight, scheme))
    assert_product(y.flatten(0, 1), x.flatten(0, 1), decoded(plain.weight, scheme), plain.bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["int8/row", "int4/1x32", "nf4/1x64", "nvfp4", "e4m3fn"])
def test_every_dtype_comes_out_as_it_went_in(scheme: str, dtype: torch.dtype) -> None:
    plain = linear(dtype=dtype)
    layer = InferenceLinear.from_linear(plain, scheme)
    x = torch.randn(T, K).to(dtype)
    y = layer(x)
    assert y.dtype == dtype == layer.dtype == layer.weight.dtype
    assert_product(y, x, decoded(plain.weight, scheme), plain.bias)


@pytest.mark.parametrize("scheme", ["int8/row", "int4/1x32", "nf4/1x64", "mxfp4", "int6/4x24", "int2"])
@pytest.mark.parametrize("shape", [(1, 7, 13), (0, 8, 16), (3, 1, 1), (5, 0, 4), (5, 4, 0), (2, 129, 131)])
def test_odd_shapes(scheme: str, shape: tuple[int, int, int]) -> None:
    tokens, outputs, inputs = shape
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    plain = nn.Linear(1, 1)
    plain.in_features, plain.out_features = inputs, outputs
    plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias)
    x = torch.randn(tokens, inputs)
    y = InferenceLinear.from_linear(plain, scheme)(x)
    assert y.shape == (tokens, outputs)
    if weight.numel():
        assert_product(y, x, decoded(weight, scheme), bias)
    else:
        assert torch.equal(y, bias.expand(tokens, outputs))


@pytest.mark.parametrize("scheme", ["int8/row", "int8/96x64", "nf4/1x64", "nvfp4_2d", "int4/3x40", "int8"])
def test_blocks_of_rows_are_the_whole(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narrowgauge.kernels._weight_only_torch.BLOCK", 1000)
    monkeypatch.setattr("narrowgauge.nn.inference.product.BLOCK", 1000)
    plain = linear(k=120, n=301)
    layer = InferenceLinear.from_linear(plain, scheme)
    x = torch.randn(T, 120, requires_grad=True)
    y = layer(x)
    assert_product(y, x, decoded(plain.weight, scheme), plain.bias)
    g = torch.randn(T, 301)
    y.backward(g)
    assert_product(x.grad, g, decoded(plain.weight, scheme).T, None)


@pytest.mark.parametrize("shape", [(1, 64, 64), (4, 192, 128), (3, 64, 1024), (1, 64, 100), (2, 65, 64), (5, 64, 64)])
def test_a_few_rows_of_bfloat16_are_the_same_product(shape: tuple[int, int, int]) -> None:
    tokens, outputs, inputs = shape
    plain = linear(inputs, outputs, torch.bfloat16)
    x = torch.randn(tokens, inputs).bfloat16()
    layer = InferenceLinear.from_linear(plain, "int8/row")
    assert_product(layer(x), x, decoded(plain.weight, "int8/row"), plain.bias)
    assert_product(layer(x.t().contiguous().t()), x, decoded(plain.weight, "int8/row"), plain.bias)


def test_zero_points_are_taken_off_before_the_scale() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 16, (N, K), generator=generator, dtype=torch.uint8)
    scale = torch.rand(N, 3, generator=generator) + 0.1
    zero_point = torch.randint(0, 16, (N, 3), generator=generator).float()
    bias = torch.randn(N, generator=generator)
    layer = InferenceLinear.from_parts(codes, scale, "uint4/1x24", zero_point=zero_point, bias=bias)
    wide = (codes.numpy() - np.repeat(zero_point.numpy(), 24, 1)) * np.repeat(scale.numpy(), 24, 1)
    x = torch.randn(T, K, generator=generator, requires_grad=True)
    y = layer(x)
    assert np.array_equal(layer.dequantize().numpy(), wide)
    assert_product(y, x, wide.astype(np.float64), bias)
    g = torch.randn(T, N, generator=generator)
    y.backward(g)
    assert_product(x.grad, g, wide.T.astype(np.float64), None)


@pytest.mark.parametrize(
    ("weight", "input"),
    [
        ("int8/row", "int8/row"), ("e4m3fn/row", "e4m3fn/row"), ("int4/1x24", "int8/row"), ("nf4/1x8", "e4m3fn/1x24"),
        ("nvfp4", "nvfp4"), ("mxfp4", "mxfp8"), ("int8", "int8:static=0.03"), ("int4/row", "e4m3fn/row"),
    ],
)  # fmt: skip
def test_both_as_codes_is_the_product_of_the_quantised_operands(weight: str, input: str) -> None:
    plain = linear()
    layer = InferenceLinear.from_linear(plain, weight, input)
    x = torch.randn(T, K)
    seen = formats.quantize_reference(x.numpy(), input).dequantize()
    assert_product(layer(x), torch.from_numpy(seen), decoded(plain.weight, weight), plain.bias)


QUANTISED = [
    name
    for name, known in RECIPES.items()
    if known.w_fprop is not None and is_coded(known.w_fprop) and not known.stochastic and known.input_map is None
]


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recipe_s_forward_pass_is_kept_to_the_bit(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(K, N, recipe=name, dtype=dtype).eval()
    x = torch.randn(3, T, K, dtype=dtype)
    with torch.no_grad():
        layer(x)
        assert torch.equal(InferenceLinear.from_quant_linear(layer)(x), layer(x))


OWN = {
    "weight only": {"w_fprop": "int4/1x24"},
    "weight only, one level up": {"w_fprop": "nvfp4"},
    "rotated": {"x_fprop": "int8/row+h8", "w_fprop": "int4/row+h8"},
    "rotated with signs, filled up": {"x_fprop": "int8/row+rht16", "w_fprop": "int8/row+rht16"},
    "gain": {"x_fprop": "mxfp4", "w_fprop": "mxfp4:rceil+gain0.75"},
    "rounded output": {"x_fprop": "e4m3fn", "w_fprop": "e4m3fn", "out_fprop": "e5m2"},
}


@pytest.mark.parametrize("name", OWN)
def test_what_a_slot_does_beside_quantising_is_kept(name: str) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(K, N, recipe=recipe("own", **OWN[name]))
    x = torch.randn(T, K, requires_grad=True)
    new = InferenceLinear.from_quant_linear(layer)
    y = new(x)
    assert torch.equal(y, layer(x))
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    (expected,) = torch.autograd.grad(x @ layer.weight.t(), x, torch.ones_like(y))
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.9


def test_rotated_weight_and_input_give_the_product() -> None:
    plain = linear()
    layer = InferenceLinear.from_linear(plain, "int8/row", rotate=8)
    x = torch.randn(T, K, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, plain(x), atol=0.05, rtol=0.05)
    turned = formats.hadamard.rotate(plain.weight.detach().numpy(), 8)
    assert np.array_equal(
        layer.dequantize().numpy(), np.float32(formats.quantize_reference(turned, "int8/row").dequantize())
    )
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(gradient, plain.weight.detach().sum(0).expand(T, K), atol=0.1, rtol=0.05)


def test_double_quantised_scales_are_those_of_the_definition() -> None:
    plain = linear(k=1000, n=70)
    layer = InferenceLinear.from_linear(plain, "nf4/1x64", double_scale=True)
    q = formats.quantize_reference(plain.weight.detach().numpy(), "nf4/1x64")
    mean = layer.mean.numpy()
    assert abs(mean - q.scale.mean()) <= 1e-6 * abs(mean)
    again = formats.quantize_reference((q.scale - mean).reshape(1, -1), "dynamic8/1x256")
    scale = np.float32(np.float32(again.dequantize().reshape(q.scale.shape)) + mean)
    expected = formats.get("nf4").decode(q.codes).astype(np.float32) * np.repeat(scale, 64, 1)[:, :1000]
    assert np.array_equal(layer.dequantize().numpy(), expected)
    x = torch.randn(T, 1000)
    assert_product(layer(x), x, expected.astype(np.float64), plain.bias)


def test_blocks_of_zeros_leave_the_mean_of_the_scales_alone() -> None:
    plain = linear(k=128, bias=False)
    with torch.no_grad():
        plain.weight[:20] = 0.0
    layer = InferenceLinear.from_linear(plain, "nf4/1x64", double_scale=True)
    assert layer.mean < 0.1
    assert (layer.dequantize()[:20] == 0).all()


def test_codes_are_packed_and_nothing_else_is_held() -> None:
    layer = InferenceLinear.from_linear(nn.Linear(256, 512, bias=False), "int4/1x128")
    assert layer.codes.shape == (512, 128)
    assert layer.nbytes == 512 * 128 + 512 * 2 * 4
    assert not list(layer.parameters())
    double = InferenceLinear.from_linear(nn.Linear(1024, 512, bias=False), "nf4/1x64", double_scale=True)
    assert double.nbytes == 512 * 512 + 512 * 16 + 512 * 16 // 256 * 4 + 4


def test_only_codes_are_saved_for_backward() -> None:
    layer = InferenceLinear.from_linear(linear(), "nf4/1x8")
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(T, K, requires_grad=True))
    own = {buffer.data_ptr() for buffer in layer.buffers()}
    assert saved
    assert all(t.data_ptr() in own for t in saved)


@pytest.mark.parametrize("options", [{}, {"double_scale": True}, {"input": "e4m3fn/row"}, {"rotate": 8}])
def test_a_state_dict_fills_a_layer_made_from_the_description(options: dict[str, object]) -> None:
    layer = InferenceLinear.from_linear(linear(), "nf4/1x24", **options)
    again = InferenceLinear(**layer.quantization)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(T, K)
    assert torch.equal(again(x), layer(x))
    assert again.quantization == layer.quantization


def test_casting_the_module_leaves_its_numbers_alone() -> None:
    layer = InferenceLinear.from_linear(linear(), "nf4/1x8", double_scale=True)
    before = layer.dequantize()
    layer.to(torch.bfloat16)
    assert layer.bias.dtype == layer.weight.dtype == layer(torch.randn(2, K).bfloat16()).dtype == torch.bfloat16
    assert torch.equal(layer.dequantize(torch.float32), before)


def test_autocast_gives_its_dtype() -> None:
    layer = InferenceLinear.from_linear(linear(), "int8/row")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(4, K)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options", [{"weight": "int8/row"}, {"weight": "nf4/1x24"}, {"weight": "nf4/1x24", "double_scale": True}]
)
def test_compiled_layer_is_one_graph_with_the_same_bits(options: dict[str, object]) -> None:
    torch.compiler.reset()
    layer = InferenceLinear.from_linear(linear(), **options)
    x = torch.randn(T, K, requires_grad=True)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(y, layer(x))
    gradients = [torch.autograd.grad(out, x, torch.ones_like(out))[0] for out in (y, layer(x))]
    assert torch.equal(*gradients)


def test_inductor_compiles_the_layer() -> None:
    torch.compiler.reset()
    model = nn.Sequential(InferenceLinear.from_linear(linear(), "int8/row"), nn.ReLU())
    x = torch.randn(T, K)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x))


def test_repr_names_the_schemes() -> None:
    text = repr(InferenceLinear.from_linear(linear(), "int4/1x24", "int8/row"))
    assert "in_features=72, out_features=40" in text
    assert "weight=int4/1x24, input=int8/row" in text


ONE = torch.ones(N, 1)
INT8 = torch.zeros(N, K, dtype=torch.int8)
UINT8 = INT8.view(torch.uint8)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: InferenceLinear(K, N, "int8/row+sr"), "weight: got 'int8/row[+]sr'"),
        (lambda: InferenceLinear(K, N, "int8/rows"), "granularity|tile"),
        (lambda: InferenceLinear(K, N, "int16/row"), "at most 8 bits"),
        (lambda: InferenceLinear(K, N, "mxfp4", double_scale=True), "double_scale: mxfp4 has scale codes"),
        (lambda: InferenceLinear(K, N, "int8/col", double_scale=True), "double_scale: int8/col has scales that rows"),
        (lambda: InferenceLinear(K, N, "int8", input="int8+sr"), "input: got int8[+]sr"),
        (lambda: InferenceLinear(K, N, "bogus"), "weight: format: unknown name 'bogus'"),
        (lambda: InferenceLinear(K, N, input="bogus"), "input: format: unknown name 'bogus'"),
        (lambda: InferenceLinear.from_linear(linear(), "bogus"), "weight: format: unknown name 'bogus'"),
        (lambda: InferenceLinear.from_parts(INT8, ONE, "bogus"), "scheme: format: unknown name 'bogus'"),
        (lambda: InferenceLinear.from_linear(nn.Linear(K, N, device="meta")), "its weight is on the meta device"),
        (
            lambda: InferenceLinear.from_quant_linear(QuantLinear(K, N, device="meta")),
            "its weight is on the meta device",
        ),
        (lambda: InferenceLinear(K, N, rotate=16), "rotate: blocks of 16 do not divide the 72 inputs"),
        (lambda: InferenceLinear(K, N, rotate=12), "power of two"),
        (lambda: InferenceLinear(K, N, dtype="int8"), "dtype: got 'int8', accepted: float32"),
        (lambda: InferenceLinear.from_parts(UINT8, ONE, "int8/row"), "codes: int8/row needs torch.int8"),
        (lambda: InferenceLinear.from_parts(INT8, ONE.t(), "int8/row"), "scale: int8/row needs"),
        (lambda: InferenceLinear.from_parts(INT8, ONE, "int8/row", bias=ONE), "bias: expected"),
        (lambda: InferenceLinear.from_parts(INT8, ONE, "int8/row", outer=ONE[0, 0]), "outer: int8/row has no"),
        (lambda: InferenceLinear.from_parts(INT8, ONE, "int8/row", zero_point=ONE, input_scheme="int8"), "zero_point"),
        (lambda: InferenceLinear.from_parts(INT8[0], ONE, "int8/row"), "codes: expected .N, K."),
        (lambda: InferenceLinear.from_quant_linear(QuantLinear(K, N, recipe="fp32")), "leaves no codes"),
        (
            lambda: InferenceLinear.from_quant_linear(
                QuantLinear(K, N, recipe=recipe("r", **dict.fromkeys(SLOTS, "int8/row+sr")))
            ),
            "x_fprop=int8/row[+]sr of recipe 'r' draws anew",
        ),
        (lambda: InferenceLinear(K, N)(torch.zeros(3, 5)), "input: expected last axis 72"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_integer_inputs_are_refused() -> None:
    with pytest.raises(TypeError, match="input: expected a floating dtype"):
        InferenceLinear(K, N)(torch.zeros(3, K, dtype=torch.int64))


@pytest.mark.parametrize("features", [64, 40])
@pytest.mark.parametrize("option", ["h16", "rht16"])
def test_a_rotation_of_the_input_turns_the_weight_too(option: str, features: int) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(features, 24), torch.randn(5, features)
    layer = InferenceLinear.from_linear(linear, "int8/row", f"int8/row+{option}")
    assert (layer(x) - linear(x)).norm() < 0.02 * linear(x).norm()
    assert layer.is_rotated
    turned = recipe("turned", x_fprop=f"int8/row+{option}", w_fprop=f"int8/row+{option}")
    by_recipe = QuantLinear.from_linear(linear, turned)
    assert torch.equal(layer(x), by_recipe(x))
    again = InferenceLinear(**layer.quantization)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))


def test_a_transposed_layer_shows_its_weight_as_it_had_it() -> None:
    torch.manual_seed(0)
    given = QuantTransposedLinear(24, 40)
    layer = InferenceLinear.from_linear(given, "e4m3fn/row")
    assert layer.weight.shape == given.weight.shape == (24, 40)
    assert torch.equal(layer.weight.t(), layer.dequantize())
    assert InferenceLinear(**layer.quantization).weight.shape == (24, 40)


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"linear: expected an nn.Linear, QuantLinear or .* got ReLU"):
        InferenceLinear.from_linear(nn.ReLU())
    with pytest.raises(TypeError, match="got InferenceLinear, which holds codes already"):
        InferenceLinear.from_linear(InferenceLinear(K, N))
