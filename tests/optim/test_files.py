"""Optimizers in files: what comes back, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from narrowgauge.optim import (
    SGD,
    Adafactor,
    Adagrad,
    AdamMini,
    AdamW,
    GaLore,
    Lion,
    Muon,
    Shampoo,
    convert_state,
    load_optimizer,
    muon_groups,
    save_optimizer,
)
from narrowgauge.optim.files import DIGEST, ENTRY


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.Linear(24, 8))


def stepped(net: nn.Module, optimizer: Any, count: int = 2) -> Any:
    for step in range(count):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(4, 40)).square().mean().backward()
        optimizer.step()
    return optimizer


def tensors(optimizer: Any) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, state in states.items() for key, value in state.items()}


def assert_same(a: Any, b: Any) -> None:
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value, right[name]), name
    groups = [[sorted((k, v) for k, v in g.items() if k != "params") for g in o.param_groups] for o in (a, b)]
    assert str(groups[0]) == str(groups[1])


MAKES: dict[str, Any] = {
    "log8": lambda net: AdamW(net.named_parameters(), state="log8", seed=5, clip_norm=float("inf")),
    "pair": lambda net: AdamW(net.parameters(), state=("nf4/1x64", "coat"), lr=torch.tensor(1e-3)),
    "residual": lambda net: AdamW(net.bfloat16().named_parameters(), state="log4", master="residual"),
    "lion": lambda net: Lion(net.named_parameters(), state="bf16_sr"),
    "sgd": lambda net: SGD(net.named_parameters(), lr=0.1, momentum=0.9, state="int8"),
    "adagrad": lambda net: Adagrad(net.parameters(), state="int8"),
    "adafactor": lambda net: Adafactor(net.named_parameters()),
    "adam_mini": lambda net: AdamMini(net.named_parameters(), blocks={"*.weight": "row"}, state="int4"),
    "muon": lambda net: Muon(muon_groups(net, head=()), state="coat"),
    "galore": lambda net: GaLore([p for p in net.parameters() if p.ndim == 2], rank=4, state="log8"),
    "shampoo": lambda net: Shampoo(net.named_parameters()),
}


@pytest.mark.parametrize("name", MAKES)
def test_everything_comes_back(name: str, tmp_path: Path) -> None:
    def run(net: nn.Module, optimizer: Any, count: int) -> None:
        dtype = next(net.parameters()).dtype
        for step in range(count):
            torch.manual_seed(step)
            optimizer.zero_grad()
            net(torch.randn(4, 40).to(dtype)).float().square().mean().backward()
            optimizer.step()

    net, other = model(), model()
    optimizer, fresh = MAKES[name](net), MAKES[name](other)
    run(net, optimizer, 2)
    save_optimizer(optimizer, tmp_path / "new" / "optimizer.safetensors")
    load_optimizer(fresh, tmp_path / "new" / "optimizer.safetensors")
    assert_same(optimizer, fresh)
    other.load_state_dict(net.state_dict())
    run(net, optimizer, 1)
    run(other, fresh, 1)
    assert_same(optimizer, fresh)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["optimizer.safetensors"]


def test_options_become_the_saved_ones_or_stay(tmp_path: Path) -> None:
    file = tmp_path / "log8.safetensors"
    net = model()
    saved = stepped(net, AdamW(net.named_parameters(), state="log8", lr=3e-4))
    save_optimizer(saved, file)
    plain, converted, expected = (AdamW(model().named_parameters(), state="coat") for _ in range(3))
    load_optimizer(plain, file)
    assert_same(plain, saved)
    load_optimizer(converted, file, convert=True)
    expected.load_state_dict(saved.state_dict())
    convert_state(expected, state="coat")
    assert_same(converted, expected)
    assert converted.param_groups[0]["lr"] == 3e-4
    same = AdamW(model().named_parameters(), state="log8")
    load_optimizer(same, file, convert=True)
    assert_same(same, saved)  # nothing to convert, nothing lost


def test_names_are_readable_without_this_package(tmp_path: Path) -> None:
    net = model()
    save_optimizer(stepped(net, AdamW(net.named_parameters(), state="coat", betas=(0.9, 0.95))), tmp_path / "a")
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert "0.weight.exp_avg_sq_scale" in file.keys()  # noqa: SIM118
        body = json.loads(file.metadata()[ENTRY])
    assert (body["class"], body["version"]) == ("AdamW", 1)
    assert body["groups"][0]["params"] == [name for name, _ in net.named_parameters()]
    assert body["groups"][0]["options"]["state"] == "coat"
    assert body["groups"][0]["options"]["betas"] == {"tuple": [0.9, 0.95]}
    assert body["states"]["1.bias"] == ["exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale", "step"]


def test_an_optimizer_that_has_not_stepped(tmp_path: Path) -> None:
    save_optimizer(AdamW(model().parameters(), lr=0.25), tmp_path / "a")
    fresh = AdamW(model().parameters())
    load_optimizer(fresh, tmp_path / "a")
    assert fresh.param_groups[0]["lr"] == 0.25
    assert not fresh.state


@pytest.fixture
def saved_file(tmp_path: Path) -> Path:
    net = model()
    save_optimizer(stepped(net, AdamW(net.named_parameters(), state="log8")), tmp_path / "optimizer")
    return tmp_path / "optimizer"


def assert_refused(file: Path, message: str, optimizer: Any = None, error: type[Exception] = ValueError) -> None:
    net = model()
    optimizer = optimizer or stepped(net, AdamW(net.named_parameters(), state="log8"), 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=message):
        load_optimizer(optimizer, file)
    assert str(before) == str(optimizer.state_dict())


@pytest.mark.parametrize("keep", [0, 5, 100, 2000, -1])
def test_truncated_files_are_refused(saved_file: Path, keep: int) -> None:
    saved_file.write_bytes(saved_file.read_bytes()[:keep])
    assert_refused(saved_file, "is no safetensors file, or damaged")


def test_a_flipped_bit_is_noticed(saved_file: Path) -> None:
    content = bytearray(saved_file.read_bytes())
    content[-3] ^= 4
    saved_file.write_bytes(content)
    assert_refused(saved_file, "is damaged: its content does not have the SHA-256")


def test_changed_metadata_is_noticed(saved_file: Path) -> None:
    content = saved_file.read_bytes()
    assert b"log8" in content
    saved_file.write_bytes(content.replace(b"log8", b"coat"))
    assert_refused(saved_file, "is damaged")


def test_other_files_are_refused(saved_file: Path, tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "foreign")
    assert_refused(tmp_path / "foreign", "is not a file of save_optimizer")
    (tmp_path / "text").write_text("hello, this is no tensor file at all")
    assert_refused(tmp_path / "text", "is no safetensors file")
    assert_refused(tmp_path / "none", "no file at", error=FileNotFoundError)
    assert_refused(saved_file, "has the states of AdamW, this is Lion", Lion(model().named_parameters()))


def test_a_later_version_is_refused(saved_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narrowgauge.optim.files.VERSION", 2)
    assert_refused(saved_file, "has version 1, this program reads 2")


def test_other_parameters_are_refused(saved_file: Path) -> None:
    net = model()
    assert_refused(saved_file, "first difference: '0.weight' in the file, '0' here", AdamW(net.parameters()))
    named = list(net.named_parameters())
    assert_refused(saved_file, r"groups of \[6\] parameters, this optimizer of \[4, 2\]; the names agree",
            AdamW([{"params": named[:4]}, {"params": named[4:]}]))  # fmt: skip
    other = nn.Sequential(nn.Linear(41, 24), nn.LayerNorm(24), nn.Linear(24, 8))
    assert_refused(saved_file, "state_dict: exp_avg: expected 984", AdamW(other.named_parameters()))


def test_what_is_no_plain_data_is_refused(tmp_path: Path) -> None:
    optimizer = AdamW(model().parameters())
    optimizer.param_groups[0]["note"] = object()
    with pytest.raises(TypeError, match=r"param_groups\.0\.note: got object; accepted are numbers, text"):
        save_optimizer(optimizer, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_file_before_it(saved_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved_file.read_bytes()

    def full(*args: Any, **options: Any) -> None:
        Path(args[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("narrowgauge.optim.files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_optimizer(AdamW(model().parameters()), saved_file)
    assert saved_file.read_bytes() == before
    assert [path.name for path in saved_file.parent.iterdir()] == ["optimizer"]


def test_the_digest_is_of_all_tensors(saved_file: Path) -> None:
    with safe_open(saved_file, framework="pt") as file:
        metadata = file.metadata()
    content = load_file(saved_file)
    save_file({**content, "more": torch.ones(1)}, saved_file, metadata=metadata)
    assert_refused(saved_file, "is damaged")
    assert len(metadata[DIGEST]) == 64
