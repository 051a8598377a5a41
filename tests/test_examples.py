"""Every script of examples/ runs, without a word on stderr, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
NUMBER = r"(\d+\.\d+)"


def run(*command: str) -> str:
    """What a program prints, one thread to each process."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def example(name: str, *arguments: str) -> str:
    return run("-W", "error", str(FOLDER / name), *arguments)


def torchrun(name: str, *arguments: str) -> str:
    return run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(FOLDER / name), *arguments)


def numbers(pattern: str, output: str) -> list[float]:
    """The numbers of the one line that fits."""
    found = re.findall(pattern, output)
    assert len(found) == 1, output
    return [float(text) for text in (found[0] if isinstance(found[0], tuple) else found)]


def losses(output: str) -> list[float]:
    return [float(text) for text in re.findall(rf"step \d+: {NUMBER} nats", output)]


def test_every_example_has_a_test_here() -> None:
    here = Path(__file__).read_text()
    assert all(f'"{path.name}"' in here for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"\npython examples/{path.name}\n" in text


@pytest.mark.slow
def test_own_recipe_is_checked_and_learns() -> None:
    output = example("own_recipe.py")
    assert "checks, ok" in output
    first, *_, last = losses(output)
    assert last < first - 0.5


@pytest.mark.slow
def test_a_llama_of_transformers_learns_and_comes_back_to_the_bit() -> None:
    output = example("transformers_fp8.py")
    first, *_, last = losses(output)
    assert last < first - 1.5
    training, codes = (numbers(rf"{name}.safetensors: {NUMBER} MB, the same logits: True", output)[0]
                       for name in ("training", "codes"))  # fmt: skip
    assert codes < 0.5 * training


def test_qlora_learns_beside_half_a_byte_a_weight_and_merges() -> None:
    output = example("qlora.py")
    assert "weight=nf4/1x64, input=None, double_scale" in output
    (whole,) = numbers(rf"trained in fp32: {NUMBER} nats, 0", output)
    (adapted,) = numbers(rf"with adapters: {NUMBER} nats", output)
    assert adapted < whole + 0.1
    assert float(output.rpartition("merged: Linear, logits moved by ")[2]) < 1e-4


def test_quantization_aware_training_ends_in_codes_with_the_same_outputs() -> None:
    output = example("qat_to_codes.py")
    assert "weight=int4_full/row" in output
    assert "first row: 3 values" in output
    moved = [float(text) for text in re.findall(r"frozen and trained differ by (\S+)", output)]
    assert len(moved) == 2
    assert max(moved) < 0.05


def test_weight_only_layers_are_smaller_and_nearly_as_good() -> None:
    output = example("weight_only.py")
    rows = {name.strip(): (float(size), float(noise)) for name, size, noise in
            re.findall(rf"^(W.*?)  +{NUMBER} kB .* {NUMBER} dB$", output, re.MULTILINE)}  # fmt: skip
    assert len(rows) == 6
    (whole,) = numbers(rf"float32 +{NUMBER} kB", output)
    for name, (size, noise) in rows.items():
        eight = name.startswith("W8")
        assert size < (0.28 if eight else 0.16) * whole
        assert noise > (40 if eight else 30)


@pytest.mark.slow
def test_weights_without_a_float_master_learn_as_those_with_one() -> None:
    output = example("no_float_master.py")
    assert "code times scale is the weight: True" in output
    last = [float(text) for text in re.findall(rf"weights: .* → {NUMBER} nats", output)]
    assert len(last) == 3
    assert max(last) < last[0] + 0.1


@pytest.mark.slow
def test_two_processes_train_what_one_trains() -> None:
    alone = losses(example("two_processes.py"))
    assert len(alone) == 4
    for mode in ([], ["--ddp"]):
        assert losses(torchrun("two_processes.py", *mode)) == pytest.approx(alone, abs=0.02)
