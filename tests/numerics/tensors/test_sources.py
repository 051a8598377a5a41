"""Named tensors are what they say, large ones are sampled by whole rows, and a model is as before."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from narrowgauge.numerics import (
    NamedTensor,
    TensorInfo,
    from_arrays,
    from_checkpoint,
    from_distributions,
    from_model,
)
from narrowgauge.numerics.tensors.named import row_runs
from narrowgauge.numerics.tensors.sources import as_source


class Small(nn.Module):
    """Two linear layers, dropout, a buffer that counts, a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(6, 5), nn.Linear(5, 3, bias=False), nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.second(self.drop(torch.relu(self.first(x))))


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small()


# Rows


@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129, 1000, 4096])
@pytest.mark.parametrize("cols", [1, 7, 128, 5000])
@pytest.mark.parametrize("limit", [1, 64, 1000, 65536, 10**6])
def test_a_sample_is_whole_rows_within_the_limit_and_without_repetition(rows, cols, limit):
    runs, kept = row_runs(rows, cols, limit)
    indices = [index for run in runs for index in range(run.start, run.stop)]
    assert len(set(indices)) == len(indices) > 0
    assert min(indices) >= 0
    assert max(indices) < rows
    assert kept == min(cols, limit) if rows * cols > limit else kept == cols
    assert len(indices) * kept <= limit or rows * cols <= limit
    if rows * cols > limit >= cols:  # as many as fit, but for a last run that is not whole
        assert len(indices) * cols > limit / 2 or len(indices) == rows


def test_runs_are_spread_over_the_rows_and_keep_the_borders_of_tiles():
    runs, _ = row_runs(4096, 64, 4 * 128 * 64)
    assert [run.stop - run.start for run in runs] == [128] * 4
    assert all(run.start % 128 == 0 for run in runs)
    assert runs[0].start < 1024 <= runs[1].start
    assert runs[-1].start >= 3072


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit: got 0, accepted: a number of elements >= 1"):
        row_runs(4, 4, 0)


# Arrays and distributions


def test_arrays_keep_name_shape_and_type_and_come_as_float32():
    source = from_arrays({"a": np.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, role="state")
    assert [info.name for info in source.infos] == ["a", "b"]
    first, second = source
    assert first.info == TensorInfo("a", "state", (2, 3), "float64")
    assert second.info == TensorInfo("b", "state", (4,), "bfloat16")
    np.testing.assert_array_equal(first.values, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert second.values.dtype == np.float32


def test_a_sample_says_what_it_is_and_holds_those_rows():
    x = np.arange(4000, dtype=np.float32).reshape(10, 100, 4)
    (tensor,) = from_arrays({"x": x}, limit=1200)
    assert tensor.info.sample == "256 of 1,000 rows"
    assert tensor.info.shape == (10, 100, 4)
    assert set(map(tuple, tensor.values)) <= set(map(tuple, x.reshape(-1, 4)))


def test_a_row_above_the_limit_is_cut():
    (tensor,) = from_arrays({"x": np.arange(100, dtype=np.float32)}, limit=16)
    assert tensor.info.sample == "1 of 1 rows, 16 of 100 columns"
    np.testing.assert_array_equal(tensor.values, np.arange(16, dtype=np.float32)[None])


def test_values_are_a_copy():
    x = np.zeros((2, 2), dtype=np.float32)
    (tensor,) = from_arrays({"x": x})
    tensor.values[:] = 1.0
    assert not x.any()


@pytest.mark.parametrize("bad", [np.array([True]), np.array([1j]), torch.tensor([True]), np.array(["a"])])
def test_other_than_real_numbers_are_refused_by_name(bad):
    with pytest.raises(TypeError, match="tensors: 'x' has dtype"):
        from_arrays({"x": bad})


def test_distributions_do_not_depend_on_their_neighbours():
    alone = dict(zip(["gg0.5"], from_distributions(["gg0.5"], size=(4, 8), seed=3), strict=True))
    among = {tensor.info.name: tensor for tensor in from_distributions(["normal", "gg0.5"], size=(4, 8), seed=3)}
    np.testing.assert_array_equal(alone["gg0.5"].values, among["gg0.5"].values)
    (other,) = from_distributions(["gg0.5"], size=(4, 8), seed=4)
    assert not np.array_equal(other.values, among["gg0.5"].values)
    assert among["normal"].info == TensorInfo("normal", "distribution", (4, 8), "float32")


def test_wrong_and_repeated_distribution_names_are_refused_at_once():
    with pytest.raises(ValueError, match="name: got 'gausian'"):
        from_distributions(["normal", "gausian"])
    with pytest.raises(ValueError, match="accepted: each name once"):
        from_distributions(["normal", "normal"])


def test_a_source_comes_from_whatever_names_tensors():
    assert [info.name for info in as_source("normal").infos] == ["normal"]
    assert [info.name for info in as_source(["normal", "laplace"]).infos] == ["normal", "laplace"]
    assert [info.role for info in as_source({"x": [1.0]}).infos] == ["tensor"]
    own = NamedTensor(TensorInfo("y", "own", (2,), "float32"), np.ones(2, dtype=np.float32))
    assert list(as_source([own])) == [own]
    with pytest.raises(TypeError, match="tensors: got int, accepted: from_distributions"):
        as_source(3)
    with pytest.raises(TypeError, match="tensors: got list"):
        as_source([])


# Checkpoints


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "layers.0.weight": torch.randn(300, 8, generator=generator),
        "layers.0.bias": torch.randn(300, generator=generator),
        "layers.1.weight": torch.randn(4, 8, generator=generator).bfloat16(),
        "experts": torch.randn(3, 40, 8, generator=generator).half(),
        "codes": torch.randn(4, 8, generator=generator).to(torch.float8_e4m3fn),
        "ids": torch.arange(6).reshape(2, 3),
        "empty": torch.zeros(0, 8),
    }


def test_the_matrices_of_a_checkpoint_come_one_by_one_and_the_rest_says_why_not(tensors, tmp_path):
    save_file(tensors, tmp_path / "model.safetensors")
    source = from_checkpoint(tmp_path / "model.safetensors")
    found = {tensor.info.name: tensor for tensor in source}
    assert set(found) == {"layers.0.weight", "layers.1.weight", "experts", "codes"}
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.values, tensors[name].float().numpy())
        assert tensor.info.dtype == str(tensors[name].dtype).removeprefix("torch.")
        assert tensor.info.role == "weight"
    assert set(source.left_out) == {"layers.0.bias", "ids", "empty"}
    assert source.left_out["ids"] == "dtype I64, not a float"
    assert len(source) == 4


def test_large_matrices_of_a_checkpoint_are_read_by_rows(tensors, tmp_path):
    save_file(tensors, tmp_path / "model.safetensors")
    source = from_checkpoint(tmp_path, limit=800, filter_fn=lambda info: info.name in ("layers.0.weight", "experts"))
    found = {tensor.info.name: tensor for tensor in source}
    assert found["layers.0.weight"].info.sample == "100 of 300 rows"
    assert found["experts"].info.sample == "100 of 120 rows"
    (expected,) = from_arrays({"x": tensors["layers.0.weight"]}, limit=800)
    np.testing.assert_array_equal(found["layers.0.weight"].values, expected.values)
    assert source.left_out["codes"] == "left out by filter_fn"


def test_a_sharded_checkpoint_is_read_through_its_index(tensors, tmp_path):
    shards = {"a.safetensors": ["layers.0.weight", "experts"], "b.safetensors": ["layers.1.weight"]}
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, tmp_path / file)
    places = {name: file for file, names in shards.items() for name in names}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for path in (index, tmp_path):
        found = {tensor.info.name: tensor.values for tensor in from_checkpoint(path)}
        assert set(found) == set(places)
        np.testing.assert_array_equal(found["layers.1.weight"], tensors["layers.1.weight"].float().numpy())


def test_paths_that_cannot_be_read_say_what_can(tensors, tmp_path):
    def refused(path, message):
        with pytest.raises(ValueError, match=message):
            from_checkpoint(path)

    refused(tmp_path / "none.safetensors", "path: no file or folder at")
    refused(tmp_path, "does not hold one model; .*: none")
    pickle = tmp_path / "model.bin"
    pickle.write_bytes(b"\x80\x02}q\x00.")
    refused(pickle, r"got model.bin, accepted: .safetensors.*pickle can run code")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\xff" * 64)
    refused(damaged, "cannot be read as safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "vector.safetensors")
    refused(tmp_path / "vector.safetensors", r"no tensor to measure among 1; the first: b \(1 axis")
    refused(tmp_path, r"name one of its safetensors files: damaged.safetensors, vector.safetensors")
    index = tmp_path / "x.safetensors.index.json"
    for content in ("[]", "{", '{"weight_map": {"a": "../vector.safetensors"}}', '{"weight_map": 3}'):
        index.write_text(content)
        refused(index, "is not an index of safetensors files")
    index.write_text('{"weight_map": {"absent": "vector.safetensors"}}')
    refused(index, "has no tensor 'absent', which its index places there")


# Live models


def test_the_operands_of_a_model_are_those_that_flow(small):
    x = torch.randn(4, 7, 6)
    small.eval()
    source = from_model(small, lambda model: model(x).square().sum())
    found = {tensor.info.name: tensor for tensor in source}
    hidden = torch.relu(small.first(x))
    y = small.second(hidden)
    np.testing.assert_array_equal(found["first.weight"].values, small.first.weight.detach().numpy())
    np.testing.assert_array_equal(found["first.input"].values, x.numpy())
    np.testing.assert_allclose(found["second.input"].values, hidden.detach().numpy())
    np.testing.assert_allclose(found["second.output_grad"].values, (2 * y).detach().numpy())
    assert found["first.output_grad"].info == TensorInfo("first.output_grad", "gradient", (4, 7, 5), "float32")
    assert list(found)[:3] == ["first.weight", "first.input", "first.output_grad"]
    assert set(source.left_out) == {"idle.input", "idle.output_grad"}


def test_what_a_lone_layer_leaves_out_has_the_names_that_it_would_have():
    layer = torch.nn.Linear(6, 5)
    ran = from_model(layer, lambda model: model(torch.ones(2, 6)).sum())
    idle = from_model(layer, lambda model: model.weight.sum())
    assert {tensor.info.name for tensor in ran} - {"weight"} == {"input", "output_grad"}
    assert set(idle.left_out) == {"input", "output_grad"}


def test_the_model_is_as_before(small):
    x = torch.randn(4, 6)
    small.first.weight.grad = torch.full((5, 6), 7.0)
    state = torch.get_rng_state()
    from_model(small, lambda model: model(x).sum())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(small.first.weight.grad, torch.full((5, 6), 7.0))
    assert small.second.weight.grad is None
    assert int(small.calls) == 0
    assert small.training
    assert not any(module._forward_hooks or module._backward_hooks for module in small.modules())


def test_hooks_are_removed_after_an_error(small):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        from_model(small, lambda model: model(torch.randn(4, 9)).sum())
    assert not any(module._forward_hooks for module in small.modules())
    assert int(small.calls) == 0


def test_without_gradients_no_loss_is_needed(small):
    def forward(model: Small) -> None:
        with torch.no_grad():
            model(torch.randn(4, 6))

    source = from_model(small, forward, roles=("weight", "activation"), filter_fn=lambda module, name: name != "idle")
    assert {info.role for info in source.infos} == {"weight", "activation"}
    assert not source.left_out
    with pytest.raises(ValueError, match=re.escape('pass roles=("weight", "activation")')):
        from_model(small, forward)


def test_the_first_run_of_a_layer_counts(small):
    first, second = torch.randn(2, 6), torch.randn(2, 6)
    source = from_model(small, lambda model: model(first).sum() + model(second).sum(), roles=("activation",))
    found = {tensor.info.name: tensor.values for tensor in source}
    np.testing.assert_array_equal(found["first.input"], first.numpy())


def test_operands_are_sampled_and_copied(small):
    x = torch.randn(50, 6)
    source = from_model(small, lambda model: model(x), roles=("weight", "activation"), limit=60)
    found = {tensor.info.name: tensor for tensor in source}
    assert found["first.input"].info.sample == "10 of 50 rows"
    before = found["first.weight"].values.copy()
    with torch.no_grad():
        small.first.weight.zero_()
    np.testing.assert_array_equal(found["first.weight"].values, before)


def test_a_model_without_linear_layers_and_unknown_roles_are_refused(small):
    with pytest.raises(ValueError, match=r"model: no torch.nn.Linear in it"):
        from_model(nn.Conv2d(3, 3, 1), lambda model: None)
    with pytest.raises(ValueError, match=r"roles: got \('wieght',\), accepted"):
        from_model(small, lambda model: None, roles=("wieght",))
