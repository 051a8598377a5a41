"""DeepShape on tensors and models: strength, pooling, what is chosen, what is refused, what is reported."""

import copy

import pytest
import torch
from torch import nn

from narrowgauge.priors import GeneralizedGaussian, fit
from narrowgauge.priors.deepshape import deepshape, deepshape_
from narrowgauge.priors.rate import measure_rate


def weights(shape, *size, std=0.0425, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return GeneralizedGaussian.from_std(shape, std).sample(size, generator=generator, dtype=torch.float32)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(300, 64)
        self.up = nn.Linear(64, 256)
        self.norm = nn.LayerNorm(256)
        self.head = nn.Linear(64, 300, bias=False)
        self.head.weight = self.embedding.weight


def model():
    torch.manual_seed(0)
    built = Model()
    with torch.no_grad():
        built.embedding.weight.copy_(weights(1.36, 300, 64))
        built.up.weight.copy_(weights(2.0, 256, 64, std=0.1, seed=1))
    return built


def test_strength_blends_between_the_weights_and_the_target():
    x = weights(1.36, 300, 400)
    full, _ = deepshape(x, method="quantile", shape_scale=0.5)
    half, report = deepshape(x, method="quantile", shape_scale=0.5, strength=0.5)
    none, still = deepshape(x, method="quantile", shape_scale=0.5, strength=0.0)
    assert torch.allclose(half, (x + full) / 2, atol=1e-8)
    assert torch.equal(none, x)
    assert still.groups[0].moved == still.groups[0].relative_mse == 0
    assert still.after == still.before
    assert fit(full).shape < fit(half).shape < fit(x).shape
    assert report.strength == 0.5


def test_the_report_says_what_happened():
    x = weights(1.36, 200_000)
    y, report = deepshape(x, fraction_bits=11)
    (group,) = report.groups
    assert y.dtype == x.dtype
    assert (group.name, group.count) == ("all", x.numel())
    assert report.before == group.before == measure_rate([x])
    assert report.after == group.after == measure_rate([y])
    assert group.moved == pytest.approx(float((torch.round(x * 256) != torch.round(y * 256)).float().mean()))
    a, b = x.double(), y.double()
    assert group.relative_mse == pytest.approx(float((b - a).square().sum() / a.square().sum()))
    assert group.correlation == pytest.approx(float(a @ b / (a.norm() * b.norm())))
    assert group.std_ratio == pytest.approx(float(b.norm() / a.norm()))
    assert group.after.exp_golomb[0] < group.before.exp_golomb[0] - 0.5


def test_both_methods_gain_little_beyond_a_smaller_standard_deviation():
    # What the docs say: of half a bit and more that reshaping takes off the entropy, plain scaling takes nearly all.
    x = weights(2.0, 500_000)
    _, report = deepshape(x, fraction_bits=11)
    scaled = measure_rate([x * report.groups[0].std_ratio])
    saved, by_scaling = report.before.entropy - report.after.entropy, report.before.entropy - scaled.entropy
    assert saved > 0.5
    assert 0.85 * saved < by_scaling < saved


def test_pooled_tensors_are_one_sample():
    a, b = weights(1.36, 200, 300), weights(1.36, 100, 500, std=0.08, seed=1)
    together, report = deepshape([a, b], method="quantile")
    apart, each = deepshape([a, b], method="quantile", pooled=False)
    flat, _ = deepshape(torch.cat([a.reshape(-1), b.reshape(-1)]), method="quantile")
    assert torch.equal(torch.cat([t.reshape(-1) for t in together]), flat)
    assert [g.name for g in report.groups] == ["all"]
    assert [g.name for g in each.groups] == ["tensors[0]", "tensors[1]"]
    assert torch.equal(apart[1], deepshape(b, method="quantile")[0])
    assert each.before == report.before


def test_a_model_is_reshaped_in_place_and_tied_weights_once():
    for matrices_only in (True, False):
        built = model()
        before = copy.deepcopy(built.state_dict())
        report = deepshape_(built, method="quantile", matrices_only=matrices_only)
        changed = {name for name, value in built.state_dict().items() if not torch.equal(value, before[name])}
        matrices = {"embedding.weight", "up.weight", "head.weight"}
        # A norm's biases of zero have no magnitude to change.
        assert changed == (matrices if matrices_only else matrices | {"up.bias", "norm.weight"})
        assert report.groups[0].count == 300 * 64 + 256 * 64 + (0 if matrices_only else 3 * 256)
        assert built.head.weight is built.embedding.weight


def test_each_tensor_of_a_model_by_itself():
    built = model()
    report = deepshape_(built, method="quantile", pooled=False)
    assert [g.name for g in report.groups] == ["embedding.weight", "up.weight", "up.bias", "norm.weight"]
    assert report.left == {"norm.bias": "holds zeros only"}
    assert fit(built.up.weight).shape == pytest.approx(0.8 * report.groups[1].fitted.shape, abs=0.02)
    assert torch.allclose(built.norm.weight, torch.ones(256))
    only = deepshape_(built, method="quantile", pooled=False, filter_fn=lambda name, _: name.startswith("up."))
    assert [g.name for g in only.groups] == ["up.weight", "up.bias"]


def test_nothing_is_written_where_one_tensor_cannot_be():
    built = model()
    with torch.no_grad():
        built.norm.weight[3] = torch.nan
        built.up.weight.mul_(4)
    before = copy.deepcopy(built.state_dict())
    with pytest.raises(ValueError, match=r"^norm.weight: got 1 NaN or infinite of 256 values"):
        deepshape_(built, method="quantile")
    with pytest.raises(ValueError, match=r"of up.weight"):
        deepshape_(built, pooled=False, filter_fn=lambda name, _: name in ("embedding.weight", "up.weight"),
                   fraction_bits=8, adj_minnum=60)  # fmt: skip
    for name, value in built.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float_types_stay(dtype):
    x = weights(1.36, 50_000).to(dtype)
    for options in ({"method": "quantile"}, {"fraction_bits": 9}):
        y, _ = deepshape(x, **options)
        assert y.dtype == dtype
        assert y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.5}, r"^strength: got 1.5, accepted: 0"),
        ({"shape_scale": 0.0}, r"^shape_scale: got 0.0, accepted: finite numbers > 0"),
        ({"std_scale": -1.0}, r"^std_scale: got -1.0"),
        ({"method": "quantil"}, r"^method: got 'quantil', accepted: published, quantile; did you mean 'quantile'"),
        ({"method": "quantile", "adj_minnum": 3}, r"^adj_minnum: got 3 with method 'quantile'"),
        ({"method": "quantile", "fraction_bits": 8}, r"^fraction_bits: got 8 with method 'quantile'"),
        ({"fraction_bits": 0}, r"^fraction_bits: got 0, accepted: 1 to 30"),
        ({"adj_minnum": 0}, r"^adj_minnum: got 0, which finds no end"),
        ({"step": 0.0}, r"^step: got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        deepshape(weights(1.36, 1000), **options)


def test_names_are_those_of_the_report():
    pair = [weights(1.0, 20), weights(1.0, 30)]
    _, report = deepshape(pair, method="quantile", pooled=False, names=["a", "b"])
    assert [g.name for g in report.groups] == ["a", "b"]
    with pytest.raises(ValueError, match=r"^names: got 1 for 2 tensors"):
        deepshape(pair, method="quantile", names=["a"])


def test_other_things_than_weights_are_refused():
    with pytest.raises(TypeError, match=r"^tensors\[1\]: got torch.int64, accepted"):
        deepshape([weights(1.0, 10), torch.ones(3, dtype=torch.int64)])
    for nothing in ([], torch.zeros(4)):
        with pytest.raises(ValueError, match=r"^tensors: got \d without a value other than zero"):
            deepshape(nothing)
