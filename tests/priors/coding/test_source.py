"""Where tensors come from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from narrowgauge.priors.coding.source import opened


@pytest.fixture
def folder(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors", metadata={"format": "pt", "x": "y"})
    save_file({"b": torch.zeros(3)}, tmp_path / "model-2.safetensors")
    return tmp_path


def index(folder, files):
    text = json.dumps({"weight_map": {f"t{number}": file for number, file in enumerate(files)}})
    (folder / "model.safetensors.index.json").write_text(text)


def test_a_file_with_its_metadata(folder):
    with opened(folder / "model-1.safetensors") as source:
        assert list(source.readers) == ["a"]
        assert source.metadata == {"format": "pt", "x": "y"}
        assert torch.equal(source.tensor("a"), torch.ones(2))


def test_a_folder_is_all_of_its_files(folder):
    with opened(folder) as source:
        assert {name: source.tensor(name).numel() for name in source.readers} == {"a": 2, "b": 3}
        assert source.metadata == {"format": "pt"}


def test_an_index_says_which_files_count(folder):
    save_file({"a": torch.ones(9)}, folder / "other.safetensors")
    with pytest.raises(ValueError, match=r"has 'a', which another file"), opened(folder):
        pass
    index(folder, ["model-1.safetensors", "model-2.safetensors"])
    with opened(folder) as source:
        assert source.tensor("a").numel() == 2
    index(folder, ["model-3.safetensors"])
    with pytest.raises(FileNotFoundError, match=r"names model-3\.safetensors"), opened(folder):
        pass
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="no index of a checkpoint"), opened(folder):
        pass


def test_a_mapping_is_taken_as_it_is():
    tensors = {"a": torch.ones(2)}
    with opened(tensors) as source:
        assert source.tensor("a") is tensors["a"]
        assert source.metadata == {}


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="model: no file at"), opened(tmp_path / "none"):
        pass
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors file in"), opened(tmp_path):
        pass
    (tmp_path / "x.safetensors").write_bytes(b"12345678901")
    with pytest.raises(ValueError, match="is no safetensors file, or damaged"), opened(tmp_path):
        pass
    with pytest.raises(TypeError, match="model: expected a path"), opened(7):
        pass
    with pytest.raises(TypeError, match="got 'a' → int"), opened({"a": 1}):
        pass
