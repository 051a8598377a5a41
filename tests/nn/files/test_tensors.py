"""Files decode to what `dequantize` gives: here, and with numpy alone by the program of docs/checkpoints.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import narrowgauge as ng
from narrowgauge import formats
from narrowgauge.formats.stored_tensor import StoredTensor
from narrowgauge.kernels import QuantizedTensor, quantize
from narrowgauge.nn import recipe
from narrowgauge.nn.files import export, load_tensors, save_tensors
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.transposed_linear import QuantTransposedLinear
from other_process import run_program

ROOT = Path(__file__).resolve().parents[3]
FORMATS = (*formats.names(), *(family.example for family in formats.families()))
SCHEMES = (
    "int8/row",
    "e4m3fn/128x128",
    "nf4/1x64",
    "mxfp4",
    "nvfp4",
    "int3/5x7",
    "mx6",
    "bfp6g16",
    "uint8/col",
    "ternary",
)


def bits(tensor: Tensor) -> Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return torch.nan_to_num(tensor, nan=1e30).contiguous().view(kinds[tensor.element_size()])


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(bits(found), bits(expected))


def every_format(shapes: list[tuple[int, ...]]) -> dict[str, QuantizedTensor]:
    """Of every format and granularity that kernels serve."""
    found = {}
    for name in FORMATS:
        for granularity in ("", "/row", "/1x64", "/128x128", "/col", "/3x7"):
            for shape in shapes:
                try:
                    found[f"{name}{granularity} {shape}"] = quantize(torch.randn(shape) * 3, f"{name}{granularity}")
                except ValueError:  # more than 8 bits, another granularity than the format's own
                    continue
    return found


def test_every_format_granularity_and_kind_of_shape_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = every_format([(37, 150), (2, 3, 20), (7,), (), (0, 5), (5, 0)])
    assert len(tensors) > 1500
    save_tensors(tensors, tmp_path / "a")
    found = load_tensors(tmp_path / "a")
    assert found.keys() == tensors.keys()
    for name, q in tensors.items():
        assert torch.equal(bits(found[name]), bits(q.dequantize())), name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheme=st.sampled_from(SCHEMES),
    shape=st.lists(st.integers(0, 33), min_size=0, max_size=3).map(tuple),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**31),
    spoiled=st.booleans(),
)
def test_round_trips(
    scheme: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int, spoiled: bool, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator) * 2.0 ** (seed % 24 - 12)).to(dtype)
    if spoiled and x.numel():
        x.view(-1)[seed % x.numel()] = torch.nan
    q = quantize(x, scheme)
    save_tensors({"w": q, "x": x}, tmp_path / "a")
    found = load_tensors(tmp_path / "a")
    assert_same(found["w"], q.dequantize())
    assert_same(found["x"], x)


DECODER = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs/checkpoints.md").read_text("utf-8"), re.DOTALL)[0]
PROOF = "\nassert not [name for name in sys.modules if name.startswith(('narrowgauge', 'torch'))]\n"


def decoded_with_numpy(path: Path) -> dict[str, np.ndarray]:
    target = path.with_suffix(".npz")
    run_program(f"{DECODER}{PROOF}\nnp.savez(sys.argv[2], **decoded)", path, target)
    with np.load(target) as found:
        return dict(found)


def test_numpy_alone_decodes_by_the_documentation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "a.safetensors"
    tensors = {scheme: quantize(torch.randn(130, 200), scheme) for scheme in SCHEMES}
    save_tensors({name.replace("/", "_"): q for name, q in tensors.items()}, path)
    expected, found = load_tensors(path), decoded_with_numpy(path)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert_same(torch.from_numpy(values), expected[name])


def test_numpy_alone_decodes_zero_points_double_scales_and_rotations(tmp_path: Path) -> None:
    torch.manual_seed(0)
    affine = formats.quantize_affine(torch.randn(12, 64).numpy(), 8, "1x16")
    parts = (torch.from_numpy(part) for part in (affine.codes, affine.scale, affine.zero_point.astype(np.float32)))
    codes, scale, zero_point = parts
    model = nn.ModuleDict(
        {
            "affine": InferenceLinear.from_parts(codes, scale, str(affine.scheme), zero_point=zero_point),
            "twice": InferenceLinear.from_linear(nn.Linear(128, 64), "nf4/1x64", double_scale=True),
            "rotated": InferenceLinear.from_linear(nn.Linear(64, 16), "int4/row", rotate=16),
        }
    )
    path = tmp_path / "a.safetensors"
    export(model, path)
    expected, found = load_tensors(path), decoded_with_numpy(path)
    for name in model:
        assert_same(torch.from_numpy(found[f"{name}.weight"]), expected[f"{name}.weight"])
    np.testing.assert_array_equal(found["affine.weight"], affine.dequantize().astype(np.float32))
    assert_same(expected["twice.weight"], model["twice"].dequantize())
    weight = ng.nn.files.load_tensors(path)["rotated.weight"]
    turned = InferenceLinear.from_linear(_linear(weight), "e4m3fn", rotate=16)
    assert (turned.dequantize() - model["rotated"].dequantize()).abs().max() < 0.02


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight
    return linear


RECIPES = {
    "rows": recipe("rows", every="int8/row"),
    "outer": recipe("outer", x_fprop="nvfp4", w_fprop="nvfp4"),
    "turned": recipe("turned", x_fprop="int8/row+h8", w_fprop="int4/1x8+h8"),
    "signed": recipe("signed", x_fprop="mxfp8+rht32", w_fprop="mxfp4+rht32"),
    "tall": recipe("tall", w_fprop="e4m3fn/4x16"),
    "gained": recipe("gained", x_fprop="mxfp4", w_fprop="mxfp4+gain0.75"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_weights_have_their_shapes_and_basis_again(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    chosen = RECIPES[name]
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(40, 24),
            "turned_over": QuantTransposedLinear(24, 24, recipe=chosen),
            "image": nn.Conv2d(8, 12, 3),
            "grouped": nn.Conv2d(8, 12, 3, groups=2),
            "depthwise": nn.Conv1d(12, 12, 5, groups=12),
        }
    )
    ng.convert(model, chosen, layers=("linear", "conv"))
    path = tmp_path / "a.safetensors"
    export(model, path)
    found, by_numpy = load_tensors(path), decoded_with_numpy(path)
    for layer, module in model.items():
        name = f"{layer}.weight"
        assert_same(torch.from_numpy(by_numpy[name]), found[name])
        assert found[name].shape == module.weight.shape
        error = (found[name] - module.weight).norm() / module.weight.norm()
        assert error < 0.3


def test_unknown_packings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors({"w": quantize(torch.ones(2, 2), "int4")}, tmp_path / "a")
    monkeypatch.setattr(
        "narrowgauge.nn.files.tensors.StoredTensor", lambda entry, *rest: StoredTensor({**entry, "packing": "x"}, *rest)
    )
    with pytest.raises(ValueError, match=r"path: .*a: packing: got 'x', accepted: none, bits"):
        load_tensors(tmp_path / "a")
