import json
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from narrowgauge.train.tree import flatten, unflatten

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ),
    *(torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e8m0fnu),
]


class Pair(NamedTuple):
    x: int
    y: int


def through_files(value: Any) -> Any:
    """Flattened, written as text and as safetensors, read back."""
    node, tensors = flatten(value)
    return unflatten(json.loads(json.dumps(node, allow_nan=False)), load(save(tensors)) if tensors else {})


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))


scalars = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False)
trees = st.recursive(
    scalars,
    lambda children: (
        st.lists(children)
        | st.tuples(children, children)
        | st.dictionaries(st.text(), children)
        | st.dictionaries(st.integers() | st.booleans() | st.tuples(st.integers(), st.text()), children)
    ),
    max_leaves=12,
)


@given(trees)
def test_nested_values_come_back_equal_and_with_their_types(tree: Any) -> None:
    back = through_files(tree)
    assert back == tree
    assert repr(back) == repr(tree)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (5, 7)], ids=str)
def test_tensors_of_any_dtype_and_shape_keep_every_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    count = math.prod(shape) * dtype.itemsize
    bits = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    tensor = bits.view(dtype).reshape(shape)
    assert same_bits(through_files({"x": [tensor]})["x"][0], tensor)


def test_views_and_strided_tensors_come_back_as_what_they_show() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    views = {"t": base.T, "row": base[1], "step": base[:, ::2], "wide": base[0, :1].expand(5), "all": base}
    back = through_files(views)
    assert all(torch.equal(back[name], view) for name, view in views.items())


def test_a_conjugated_tensor_is_resolved() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert torch.equal(through_files(tensor), tensor)


def test_tied_tensors_are_written_once_and_come_back_tied() -> None:
    weight = torch.randn(3, 4)
    node, tensors = flatten({"embed": weight, "head": weight, "copy": weight.clone()})
    assert set(tensors) == {"embed", "copy"}
    back = unflatten(node, tensors)
    assert back["embed"] is back["head"]
    assert back["embed"] is not back["copy"]


def test_a_tensors_name_is_its_path_and_collisions_get_a_number() -> None:
    tree = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1), 0: [torch.zeros(2)]}
    _, tensors = flatten(tree)
    assert set(tensors) == {"a.b", "a.b#2", "0.0"}
    assert through_files(tree)["a.b"].item() == 1


def test_saving_does_not_alias_a_view_of_a_larger_tensor() -> None:
    _, tensors = flatten(torch.zeros(1000, 1000)[0])
    assert tensors["tensor"].untyped_storage().nbytes() == 4000


def test_floats_that_json_does_not_know_come_back() -> None:
    back = through_files([math.inf, -math.inf, math.nan, -0.0, 0.1])
    assert back[:2] == [math.inf, -math.inf]
    assert math.isnan(back[2])
    assert math.copysign(1, back[3]) == -1
    assert back[4] == 0.1


@pytest.mark.parametrize("dtype", ["uint32", "int64", "float32", "bool"])
def test_numpy_arrays_come_back_as_arrays(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    back = through_files({"x": array})["x"]
    assert isinstance(back, np.ndarray)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_dtypes_and_ordered_dicts_come_back() -> None:
    back = through_files(OrderedDict(b=torch.bfloat16, a=1))
    assert back == {"b": torch.bfloat16, "a": 1}
    assert list(back) == ["b", "a"]


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        print,
        Pair(1, 2),
        np.int64(3),
        torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (2,), check_invariants=True),
        torch.empty(2, device="meta"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_refused_with_their_path(value: Any) -> None:
    with pytest.raises(TypeError, match=r"state: groups\.0\.lr is a"):
        flatten({"groups": [{"lr": value}]})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"call": "os.system"}, "state: unknown node"),
        ({}, "state: unknown node"),
        ({"tensor": "gone"}, "state: tensor 'gone' is missing"),
        ({"dtype": "nn"}, "state: unknown dtype 'nn'"),
    ],
)
def test_malformed_nodes_are_refused(node: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unflatten(node, {})
