"""What of a tensor is coded, and that it comes back as it was quantised."""

import numpy as np
import pytest
import torch

from narrowgauge.kernels import QuantizedTensor, quantize
from narrowgauge.priors.coding import Coded, coder
from narrowgauge.priors.coding.weights import Plan, from_parts, stepped, to_parts, unstepped


def plan(**options):
    return Plan(coder("huffman"), **options)


def normal(*shape, dtype=torch.float32, seed=0):
    return (0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [0, 4, 8, 13, -3])
def test_steps_are_rounded_half_to_even(dtype, bits):
    x = torch.cat((normal(4, 100, dtype=dtype), torch.tensor([[0.5, 1.5, -2.5, 100.0] * 25], dtype=dtype)))
    entry, parts = to_parts(x, plan(step_bits=bits))
    assert (entry["kind"], entry["step_bits"]) == ("step", bits)
    expected = np.rint(x.double().numpy() * 2.0**bits) / 2.0**bits
    found = from_parts(entry, parts)
    assert found.dtype == dtype
    assert np.array_equal(found.double().numpy(), expected)
    assert torch.equal(from_parts(*to_parts(found, plan(step_bits=bits))), found)


def test_steps_far_from_one():
    x = torch.tensor([[1e-300, -3e-300]], dtype=torch.float64)
    assert stepped(x, 1020).tolist() == np.rint(x.numpy() * 2.0**1020).reshape(-1).tolist()
    assert stepped(torch.tensor([[2.0**100]]), -100).tolist() == [1]
    assert unstepped(torch.tensor([3]), -100, torch.float32).item() == 3 * 2.0**100


def test_steps_take_the_narrowest_type():
    assert stepped(torch.tensor([[0.5, -0.5]]), 7).dtype == np.int8
    assert stepped(torch.tensor([[0.5, -0.5]]), 8).dtype == np.int16
    assert stepped(torch.tensor([[0.5]], dtype=torch.float64), 40).dtype == np.int64


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_has_no_step_is_refused(bad):
    with pytest.raises(ValueError, match="values: the largest is"):
        to_parts(torch.tensor([[bad, 1.0]]), plan(step_bits=8))


@pytest.mark.parametrize(
    "scheme", ["rf8/row", "e4m3fn/row", "e5m2", "int8/row", "int4/1x32", "nf4/1x64", "mxfp4", "mxfp8", "nvfp4", "mx6"]
)
@pytest.mark.parametrize("shape", [(16, 192), (5, 7), (2, 3, 4, 5), (0, 8), (1, 1)])
@pytest.mark.parametrize("name", ["exp-golomb", "huffman", "rans"])
def test_codes_and_scales_of_a_scheme_come_back(scheme, shape, name):
    x = normal(*shape, dtype=torch.bfloat16)
    entry, parts = to_parts(x, Plan(coder(name), scheme=scheme))
    found = from_parts(entry, parts)
    expected = quantize(x, scheme)
    assert isinstance(found, QuantizedTensor)
    assert (found.text, found.dtype) == (expected.text, x.dtype)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(found.outer, expected.outer)
    assert isinstance(parts["scale"], Coded) == (not expected.scale.is_floating_point())


def test_infinite_values_have_no_codes():
    with pytest.raises(ValueError, match="NaN or infinities"):
        to_parts(torch.tensor([[float("nan")]]), plan(scheme="rf8/row"))


@pytest.mark.parametrize(
    ("tensor", "options", "kind"),
    [
        (torch.ones(4), {"step_bits": 8}, "raw"),
        (torch.tensor(1.0), {"step_bits": 8}, "raw"),
        (torch.ones(4), {"step_bits": 8, "everything": True}, "step"),
        (torch.ones(2, 2), {"step_bits": 8}, "step"),
        (torch.ones(2, 2), {"scheme": "rf8"}, "scheme"),
        (torch.ones(2, 2), {}, "raw"),
        (torch.ones(2, 2, dtype=torch.int64), {"step_bits": 8}, "integers"),
        (torch.ones(2, 2, dtype=torch.uint8), {}, "integers"),
        (torch.ones(2, 2, dtype=torch.bool), {"step_bits": 8}, "raw"),
        (torch.ones(2, 2).to(torch.float8_e4m3fn), {"step_bits": 8}, "raw"),
    ],
)
def test_what_is_coded(tensor, options, kind):
    entry, parts = to_parts(tensor, plan(**options))
    assert entry["kind"] == kind
    found = from_parts(entry, parts)
    if kind != "scheme":
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        assert torch.equal(found.float(), tensor.float())


def test_strided_tensors_and_parameters_are_taken():
    x = torch.nn.Parameter(normal(6, 4)).t()
    assert torch.equal(from_parts(*to_parts(x, plan(step_bits=8))), (x * 256).round() / 256)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="scheme: got a scheme and step_bits"):
        plan(step_bits=8, scheme="rf8")
    with pytest.raises(ValueError, match="without"):
        plan(scheme="int8/row+sr")
    with pytest.raises(ValueError, match="step_bits: got 2000"):
        plan(step_bits=2000)
    with pytest.raises(TypeError, match="step_bits: got float"):
        plan(step_bits=8.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [3, 3]}, "shape"),
        ({"dtype": "float31"}, "dtype"),
        ({"kind": "new"}, "kind"),
        ({"step_bits": 9999}, "step_bits"),
        ({"dtype": "int8"}, "dtype"),
        ({"kind": "integers"}, "dtype"),
    ],
)
def test_entries_that_do_not_fit_are_refused(change, message):
    entry, parts = to_parts(normal(4, 4), plan(step_bits=8))
    with pytest.raises(ValueError, match=message):
        from_parts(entry | change, parts)


def test_codes_wider_than_the_scheme_are_refused():
    entry, parts = to_parts(normal(4, 32), plan(scheme="nf4/1x32"))
    parts["values"] = coder("huffman").encode(np.full(128, 16, dtype=np.uint8))
    with pytest.raises(ValueError, match="codes of 4 bits"):
        from_parts(entry, parts)
