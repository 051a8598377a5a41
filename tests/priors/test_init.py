"""Initialization: variance by the rule, tails by the shape, and nothing else touched."""

import copy
import math

import pytest
import torch
from torch import nn

from narrowgauge.priors import GeneralizedGaussian, fit, init_, xi_for

SHAPES = [0.5, 0.8, 1.0, 1.36, 1.5, 2.0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_drawn(tensor, shape, std):
    """Sample variance within five standard deviations of std², and the fitted shape within its tolerance."""
    kurtosis = GeneralizedGaussian(shape, 1.0).kurtosis
    variance = float(tensor.detach().double().square().mean())
    assert variance == pytest.approx(std**2, rel=5 * math.sqrt((kurtosis - 1) / tensor.numel()))
    assert fit(tensor).shape == pytest.approx(shape, abs=0.03 if shape < 1.6 else 0.06)
    mean = float(tensor.detach().double().mean())
    assert abs(mean) < 5 * std / math.sqrt(tensor.numel())


class Transformer(nn.Module):
    """One of each kind of parameter."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(500, 400, padding_idx=2)
        self.positions = nn.Parameter(torch.randn(400, 300) * 0.01)
        self.norm = nn.LayerNorm((20, 30))
        self.rms = nn.RMSNorm(400)
        self.up = nn.Linear(400, 600)
        self.conv = nn.Conv1d(300, 100, 5)
        self.relative_bias = nn.Parameter(torch.randn(30, 40))
        self.scalar = nn.Parameter(torch.tensor(3.0))
        self.head = nn.Linear(400, 500, bias=False)


def model():
    torch.manual_seed(0)
    built = Transformer()
    with torch.no_grad():
        built.embedding.weight[2] = 0.25
    return built


def changed(before, after):
    return {
        n
        for (n, p), (_, q) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if not torch.equal(p, q)
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_match_keeps_the_std_and_changes_the_family(shape):
    weight = torch.empty(500, 400).uniform_(-0.06, 0.06, generator=seeded(1))
    std = float(weight.square().mean().sqrt())
    assert init_(weight, shape, generator=seeded()) is weight
    assert_drawn(weight, shape, std)


@pytest.mark.parametrize(
    ("mode", "options", "variance"),
    [
        ("kaiming", {}, 2 / 600),
        ("kaiming", {"fan": "out"}, 2 / 600),
        ("kaiming", {"fan": "in"}, 2 / 400),
        ("kaiming", {"fan": "in", "xi": 1.0}, 1 / 400),
        ("lecun", {"fan": "in"}, 1 / 400),
        ("lecun", {}, 1 / 600),
        ("xavier", {}, 2 / 1000),
        ("xavier", {"xi": 3.0}, 3 / 1000),
    ],
)
@pytest.mark.parametrize("shape", [0.8, 2.0])
def test_modes_set_their_variance_for_every_shape(mode, options, variance, shape):
    linear = nn.Linear(400, 600)
    init_(linear, shape, mode=mode, generator=seeded(2), **options)
    assert_drawn(linear.weight, shape, math.sqrt(variance))


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        (0.5, 0.00465847),
        (0.8, 0.02310133),
        (1.0, 0.03608439),
        (1.36, 0.05416950),
        (1.5, 0.05938307),
        (2.0, 0.07216878),
    ],
)
def test_the_published_scales_at_fan_768(shape, scale):
    assert GeneralizedGaussian.from_std(shape, math.sqrt(2 / 768)).scale == pytest.approx(scale, abs=5e-9)
    linear = init_(nn.Linear(256, 768), shape, mode="kaiming", generator=seeded(3))
    expected = GeneralizedGaussian.from_std(shape, math.sqrt(2 / 768)).sample((768, 256), generator=seeded(3))
    assert torch.equal(linear.weight, expected)


def test_shape_two_kaiming_fan_in_is_torchs_kaiming_normal_in_law():
    ours, theirs = torch.empty(600, 400), torch.empty(600, 400)
    init_(ours, 2.0, mode="kaiming", fan="in", generator=seeded(4))
    nn.init.kaiming_normal_(theirs, generator=seeded(4))
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.01)
    assert_drawn(theirs, 2.0, math.sqrt(2 / 400))


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        ("linear", {"up.weight", "head.weight"}),
        ("all_2d", {"up.weight", "head.weight", "embedding.weight", "positions"}),
        ("all_nd", {"up.weight", "head.weight", "embedding.weight", "positions", "conv.weight"}),
    ],
)
@pytest.mark.parametrize("mode", ["match", "kaiming"])
def test_each_scope_touches_its_parameters_and_no_others(scope, names, mode):
    before, after = model(), model()
    assert init_(after, 1.0, mode=mode, scope=scope, generator=seeded()) is after
    assert changed(before, after) == names


def test_match_keeps_the_std_of_every_tensor_of_a_model():
    before, after = model(), model()
    init_(after, 1.0, scope="all_nd", generator=seeded())
    for name in ("up.weight", "head.weight", "positions", "conv.weight"):
        old, new = before.get_parameter(name), after.get_parameter(name)
        assert_drawn(new, 1.0, float(old.detach().square().mean().sqrt()))


def test_a_convolution_kernel_counts_its_window_in_the_fan_and_never_becomes_ones():
    conv = nn.Conv2d(32, 64, 3)
    bias = conv.bias.detach().clone()
    init_(conv, 1.36, mode="kaiming", fan="in", scope="all_nd", generator=seeded(5))
    assert_drawn(conv.weight, 1.36, math.sqrt(2 / (32 * 9)))
    assert not (conv.weight == 1).any()
    assert torch.equal(conv.bias, bias)
    init_(conv, 1.36, mode="lecun", fan="out", scope="all_nd", generator=seeded(5))
    assert_drawn(conv.weight, 1.36, math.sqrt(1 / (64 * 9)))


def test_an_embedding_takes_its_vocabulary_as_the_fan_and_keeps_its_padding_row():
    embedding = nn.Embedding(3000, 100, padding_idx=7)
    init_(embedding, 1.0, mode="kaiming", scope="all_2d", generator=seeded(6))
    assert torch.equal(embedding.weight[7], torch.zeros(100))
    rest = torch.cat([embedding.weight[:7], embedding.weight[8:]])
    assert_drawn(rest, 1.0, math.sqrt(2 / 3000))
    assert rest.abs().max(dim=1).values.min() > 0


def test_match_leaves_the_padding_row_out_of_the_std():
    embedding = nn.Embedding(400, 500, padding_idx=399)
    with torch.no_grad():
        embedding.weight[399] = 1000.0
    init_(embedding, 2.0, scope="all_2d", generator=seeded(7))
    assert (embedding.weight[399] == 1000.0).all()
    assert float(embedding.weight[:399].detach().std()) == pytest.approx(1.0, rel=0.02)


def test_a_tied_weight_is_drawn_once():
    embedding, head = nn.Embedding(50, 20), nn.Linear(20, 50, bias=False)
    head.weight = embedding.weight
    both = nn.ModuleList([embedding, head])
    alone = copy.deepcopy(embedding)
    init_(both, 1.0, scope="all_2d", generator=seeded(8))
    init_(alone, 1.0, scope="all_2d", generator=seeded(8))
    assert head.weight is embedding.weight
    assert torch.equal(embedding.weight, alone.weight)


def test_zeros_stay_zeros_under_match():
    linear = nn.Linear(30, 40)
    nn.init.zeros_(linear.weight)
    assert not init_(linear, 1.0, generator=seeded()).weight.any()


def test_the_generator_decides_everything():
    state = torch.get_rng_state()
    first, second, third = (init_(model_copy(), 0.8, generator=seeded(s)) for s in (1, 1, 2))
    assert changed(first, second) == set()
    assert changed(first, third) == {"0.weight", "2.weight"}
    assert torch.equal(state, torch.get_rng_state())


def model_copy():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(30, 50), nn.ReLU(), nn.Linear(50, 20))


def test_the_layers_of_a_model_get_different_numbers():
    twins = nn.ModuleList([nn.Linear(10, 10), nn.Linear(10, 10)])
    init_(twins, 1.0, mode="kaiming", generator=seeded())
    assert not torch.equal(twins[0].weight, twins[1].weight)


def test_non_contiguous_and_narrow_tensors_are_filled_in_place():
    base = torch.zeros(300, 800, dtype=torch.bfloat16)
    init_(base.T[::2], 1.0, mode="kaiming", generator=seeded())
    assert_drawn(base[:, ::2], 1.0, math.sqrt(2 / 400))
    assert not base[:, 1::2].any()


def test_gradients_and_requires_grad_are_left_as_they_were():
    linear = nn.Linear(8, 8)
    linear(torch.ones(1, 8)).sum().backward()
    gradient = linear.weight.grad.clone()
    init_(linear, 1.0, generator=seeded())
    assert linear.weight.requires_grad
    assert linear.weight.is_leaf
    assert torch.equal(linear.weight.grad, gradient)


def test_nothing_is_written_if_one_tensor_cannot_be():
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        layers[1].weight[0, 0] = math.nan
    before = layers[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"1\.weight: got 1 NaN or infinite of 64 values"):
        init_(layers, 1.0, generator=seeded())
    assert torch.equal(layers[0].weight, before)


def test_empty_tensors_pass():
    for mode in ("match", "kaiming"):
        assert init_(torch.zeros(0, 4), 1.0, mode=mode).shape == (0, 4)


def test_xi_of_each_activation():
    assert xi_for("linear") == xi_for("sigmoid") == 1.0
    assert xi_for("relu") == 2.0
    assert xi_for("leaky_relu", 0.5) == pytest.approx(1.6)
    with pytest.raises(ValueError, match=r"activation: got 'reLu'.*did you mean 'relu'"):
        xi_for("reLu")
    with pytest.raises(ValueError, match=r"negative_slope: got 0\.1 with 'relu'"):
        xi_for("relu", 0.1)


@pytest.mark.parametrize(
    ("target", "options", "text"),
    [
        (torch.ones(2, 2), {"mode": "kaimin"}, r"mode: got 'kaimin'.*did you mean 'kaiming'"),
        (torch.ones(2, 2), {"mode": "lecun", "fan": "inn"}, r"fan: got 'inn'.*did you mean 'in'"),
        (torch.ones(2, 2), {"scope": "all2d"}, r"scope: got 'all2d'.*did you mean 'all_2d'"),
        (torch.ones(2, 2), {"fan": "in"}, "fan: got 'in' with mode 'match'"),
        (torch.ones(2, 2), {"fan": "in", "mode": "xavier"}, "fan: got 'in' with mode 'xavier'"),
        (torch.ones(2, 2), {"xi": 2.0}, r"xi: got 2\.0 with mode 'match'"),
        (torch.ones(2, 2), {"xi": 0.0, "mode": "lecun"}, r"xi: got 0\.0, accepted: finite numbers > 0"),
        (torch.ones(2), {"mode": "lecun"}, r"target: got shape \(2,\), accepted: two or more dimensions"),
        (torch.ones(2, 2, device="meta"), {}, "target: got a tensor on the meta device"),
        (nn.Embedding(3, 3), {}, r"scope: got 'linear', in which Embedding has no parameter"),
        (torch.zeros(2, 2), {"shape": -1.0}, r"shape: got -1\.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(target, options, text):
    with pytest.raises(ValueError, match=text):
        init_(target, **options)


def test_targets_of_another_kind_are_refused():
    with pytest.raises(TypeError, match=r"target: got list, accepted: torch\.nn\.Module or torch\.Tensor"):
        init_([1.0])
    with pytest.raises(TypeError, match=r"target: got dtype torch\.int64, accepted: floating-point"):
        init_(torch.ones(2, 2, dtype=torch.int64))


def test_a_linear_whose_weight_is_computed_is_refused():
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="target: got a weight that is no parameter"):
        init_(linear, 1.0)


VARIANCES = {
    "linear": (nn.Linear(400, 600), {"weight": (400, 600, 1)}),
    "conv": (nn.Conv2d(32, 64, 5), {"weight": (32 * 25, 64 * 25, 1)}),
    "transposed": (nn.ConvTranspose1d(60, 80, 7), {"weight": (80 * 7, 60 * 7, 1)}),
    "embedding": (nn.Embedding(3000, 100, padding_idx=0), {"weight": (100, 3000, 1)}),
    "lstm": (
        nn.LSTM(200, 150, num_layers=2, bidirectional=True, proj_size=100),
        {"weight_ih_l0": (200, 150, 4), "weight_hh_l0": (100, 150, 4), "weight_hr_l0": (150, 100, 1)}
        | {"weight_ih_l1_reverse": (200, 150, 4)},
    ),
    "gru": (nn.GRU(300, 200), {"weight_ih_l0": (300, 200, 3), "weight_hh_l0": (200, 200, 3)}),
    "gru cell": (nn.GRUCell(300, 200), {"weight_ih": (300, 200, 3)}),
    "attention": (nn.MultiheadAttention(256, 4), {"in_proj_weight": (256, 256, 3), "out_proj.weight": (256, 256, 1)}),
    "cross attention": (nn.MultiheadAttention(256, 4, kdim=128, vdim=64), {"k_proj_weight": (128, 256, 1)}),
}


@pytest.mark.parametrize("mode", ["xavier", "kaiming"])
@pytest.mark.parametrize("kind", VARIANCES)
@pytest.mark.parametrize("shape", [0.8, 2.0])
def test_each_kind_of_layer_has_the_variance_of_its_rule(kind, mode, shape):
    """Within 1 % where that many numbers can tell, else five standard deviations; each gate by its own fans."""
    layer, weights = copy.deepcopy(VARIANCES[kind])
    biases = {name: p.clone() for name, p in layer.named_parameters() if "bias" in name}
    init_(layer, shape, mode=mode, scope="layers", fan="in" if mode == "kaiming" else None, generator=seeded(9))
    kurtosis = GeneralizedGaussian(shape, 1.0).kurtosis
    for name, (fan_in, fan_out, parts) in weights.items():
        expected = 2 / (fan_in + fan_out) if mode == "xavier" else 2 / fan_in
        weight = layer.get_parameter(name).detach().double()
        for part in weight.chunk(parts):
            drawn = part[part.flatten(1).abs().amax(1) > 0]  # not the padding row
            tolerance = max(0.01, 5 * math.sqrt((kurtosis - 1) / drawn.numel()))
            assert float(drawn.square().mean()) == pytest.approx(expected, rel=tolerance)
    assert all(torch.equal(layer.get_parameter(name), old) for name, old in biases.items())


def test_patterns_and_functions_give_each_layer_its_shape():
    layers = nn.ModuleDict({"attention": nn.Linear(400, 500), "mlp": nn.Sequential(nn.Linear(300, 400))})
    init_(layers, {"attention.*": 0.7, "*": 2.0}, generator=seeded(10))
    assert fit(layers["attention"].weight).shape == pytest.approx(0.7, abs=0.03)
    assert fit(layers["mlp"][0].weight).shape == pytest.approx(2.0, abs=0.06)
    seen = []

    def by_size(name, parameter):
        seen.append(name)
        return 1.0 if parameter.shape[1] == 300 else 1.5

    init_(layers, by_size, generator=seeded(11))
    assert seen == ["attention.weight", "mlp.0.weight"]
    assert fit(layers["mlp"][0].weight).shape == pytest.approx(1.0, abs=0.03)


def test_patterns_that_leave_something_out_are_refused():
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = layers[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"shape: no pattern fits the parameter '1\.weight'; add '\*'"):
        init_(layers, {"0.*": 1.0})
    with pytest.raises(ValueError, match=r"shape: no parameter fits the pattern 'mlp\.\*'; the first is '0\.weight'"):
        init_(layers, {"mlp.*": 1.0, "*": 2.0})
    with pytest.raises(ValueError, match=r"shape: got -1\.0"):
        init_(layers, lambda name, parameter: -1.0)
    assert torch.equal(layers[0].weight, before)
