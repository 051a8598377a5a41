"""Compressed models: what comes back, tensor by tensor, and what damage does."""

import hashlib
import json
import math

import pytest
import torch

from narrowgauge.kernels import QuantizedTensor, quantize
from narrowgauge.priors.coding import CompressedModel, coder, compress, describe_compressed, load_compressed
from narrowgauge.priors.coding import model_file as module
from narrowgauge.priors.coding.container import MAGIC

GENERATOR = torch.Generator().manual_seed(0)
MODEL = {
    "embed.weight": 0.05 * torch.randn(40, 16, generator=GENERATOR),
    "head.weight": (0.05 * torch.randn(7, 32, generator=GENERATOR)).bfloat16(),
    "conv.weight": 0.05 * torch.randn(3, 2, 5, 5, generator=GENERATOR),
    "norm.weight": torch.ones(16),
    "ids": torch.arange(12).reshape(3, 4),
    "none": torch.zeros(0, 4),
    "count": torch.tensor(3),
}
CODERS = ("exp-golomb", "huffman", "rans")


def expected(name, tensor, **how):
    if not tensor.is_floating_point() or tensor.dim() < 2:
        return tensor
    if "scheme" in how:
        return quantize(tensor, how["scheme"]).dequantize()
    return ((tensor.double() * 256).round() / 256).to(tensor.dtype)


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("how", [{"step_bits": 8}, {"scheme": "rf8/row"}, {"scheme": "mxfp4"}, {"scheme": "nvfp4"}])
def test_every_tensor_comes_back_as_it_was_quantised(tmp_path, coding, how):
    compress(MODEL, tmp_path / "m.ngz", coding=coding, **how)
    found = load_compressed(tmp_path / "m.ngz")
    assert list(found) == list(MODEL)
    for name, tensor in MODEL.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], expected(name, tensor, **how)), name


def test_without_a_quantisation_nothing_changes(tmp_path):
    compress(MODEL, tmp_path / "m.ngz")
    for name, tensor in load_compressed(tmp_path / "m.ngz").items():
        assert torch.equal(tensor, MODEL[name])


def test_norms_are_coded_when_asked(tmp_path):
    model = {"norm": torch.linspace(0.9, 1.1, 50)}
    compress(model, tmp_path / "m.ngz", step_bits=4, everything=True)
    assert torch.equal(load_compressed(tmp_path / "m.ngz")["norm"], (model["norm"] * 16).round() / 16)


def test_only_what_is_asked_for_is_decoded(tmp_path, monkeypatch):
    compress(MODEL, tmp_path / "m.ngz", step_bits=8)
    read = []
    whole = module.Container.part
    monkeypatch.setattr(module.Container, "part", lambda self, entry: read.append(entry) or whole(self, entry))
    found = load_compressed(tmp_path / "m.ngz", ["head.weight", "norm.weight"])
    assert list(found) == ["head.weight", "norm.weight"]
    assert len(read) == 2


def test_a_damaged_tensor_leaves_the_others_readable(tmp_path):
    compress(MODEL, tmp_path / "m.ngz", step_bits=8)
    with CompressedModel(tmp_path / "m.ngz") as model:
        at = model._entries["head.weight"]["parts"]["values"]["offset"]
    data = bytearray((tmp_path / "m.ngz").read_bytes())
    data[at + 3] ^= 1
    (tmp_path / "m.ngz").write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.ngz: head\.weight: is damaged"):
        load_compressed(tmp_path / "m.ngz")
    assert load_compressed(tmp_path / "m.ngz", ["embed.weight"])["embed.weight"].shape == (40, 16)


@pytest.mark.parametrize("coding", CODERS)
def test_bytes_that_are_changed_are_noticed(tmp_path, coding):
    path = tmp_path / "m.ngz"
    compress({"w": MODEL["conv.weight"], "n": torch.ones(3)}, path, scheme="mxfp4", coding=coding)
    data = path.read_bytes()
    for at in range(len(data) % 3, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"m\.ngz"):
            load_compressed(path)
    for size in range(0, len(data), 29):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"m\.ngz"):
            load_compressed(path)


def sealed(path, body, data):
    """A file with another description, whose digest is right."""
    text = json.dumps(body).encode()
    offset = int.from_bytes(data[8:16], "little")
    head = MAGIC + data[8:16] + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest()
    path.write_bytes(head + data[56:offset] + text)


def places(value, path=()):
    """The path of every value of a JSON object."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


@pytest.mark.parametrize("coding", CODERS)
def test_no_description_does_more_than_raise_a_value_error(tmp_path, coding):
    """A forged one may describe another tensor; anything else than that is refused."""
    path = tmp_path / "m.ngz"
    compress({"w": MODEL["conv.weight"], "n": torch.ones(3)}, path, scheme="nvfp4", coding=coding)
    data = path.read_bytes()
    text = data[int.from_bytes(data[8:16], "little") :]
    refused = 0
    for place in list(places(json.loads(text)))[1:]:
        for wrong in (None, -1, 2**62, "x", [], {}, 1.5):
            body = json.loads(text)
            inner = body
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            sealed(path, body, data)
            try:
                found = load_compressed(path)
                describe_compressed(path)
            except ValueError:
                refused += 1
            else:
                assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
    assert refused > 300


def test_codes_of_a_scheme_can_be_had_as_they_are(tmp_path):
    compress(MODEL, tmp_path / "m.ngz", scheme="e4m3fn/row")
    with CompressedModel(tmp_path / "m.ngz") as model:
        q = model.quantized("head.weight")
        assert isinstance(q, QuantizedTensor)
        assert torch.equal(q.codes, quantize(MODEL["head.weight"], "e4m3fn/row").codes)
        assert isinstance(model.quantized("norm.weight"), torch.Tensor)


def test_the_report_is_that_of_the_file(tmp_path):
    report = compress(MODEL, tmp_path / "m.ngz", step_bits=8, coding="rans")
    assert report == describe_compressed(tmp_path / "m.ngz")
    assert report.nbytes == (tmp_path / "m.ngz").stat().st_size
    assert report.parameters == sum(tensor.numel() for tensor in MODEL.values())
    assert report.original == sum(tensor.nbytes for tensor in MODEL.values())


def test_progress_names_every_tensor(tmp_path):
    seen = []
    compress(MODEL, tmp_path / "m.ngz", show=lambda *shown: seen.append(shown))
    assert seen == [(number, len(MODEL), name) for number, name in enumerate(MODEL)]


def test_mistakes_name_the_tensor_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"^w: values: the largest is nan"):
        compress({"w": torch.full((2, 2), math.nan)}, tmp_path / "m.ngz", step_bits=8)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match=r"^w: dtype: got complex128"):
        compress({"w": torch.ones(2, 2, dtype=torch.complex128)}, tmp_path / "m.ngz")
    with pytest.raises(ValueError, match="order: got 1, accepted with exp-golomb alone"):
        compress(MODEL, tmp_path / "m.ngz", coding="huffman", order=1)
    with pytest.raises(ValueError, match="order: got 1 and a coder"):
        compress(MODEL, tmp_path / "m.ngz", coding=coder("rans"), order=1)


def test_names_that_are_not_there(tmp_path):
    compress(MODEL, tmp_path / "m.ngz")
    with pytest.raises(ValueError, match=r"no tensor 'head\.weigth', did you mean 'head\.weight'"):
        load_compressed(tmp_path / "m.ngz", ["head.weigth"])
    with pytest.raises(TypeError, match="names: expected a list"):
        load_compressed(tmp_path / "m.ngz", "ids")
    with CompressedModel(tmp_path / "m.ngz") as model, pytest.raises(ValueError, match="no tensor 'x'"):
        model.tensor("x")
