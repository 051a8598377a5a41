"""The packaging's promises that a look at the files can check; tests/wheel_check.py builds and installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import narrowgauge

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "narrowgauge"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def layer_folders() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r for r in requirements}


def test_every_root_folder_with_code_is_linked():
    links = sorted(path.name for path in PACKAGE.iterdir() if path.is_symlink())
    assert links == layer_folders()


def test_links_are_relative_and_name_their_folder():
    targets = {path.name: path.readlink().as_posix() for path in PACKAGE.iterdir() if path.is_symlink()}
    assert targets == {name: f"../../{name}" for name in targets}


def test_no_link_was_lost_in_the_checkout():
    # A checkout without symbolic links holds small text files in their place, and builds an empty wheel.
    assert [path.name for path in PACKAGE.iterdir() if path.suffix == "" and not path.is_dir()] == []
    assert all((PACKAGE / name).is_symlink() for name in layer_folders()), "clone again with git's core.symlinks=true"


def test_every_folder_of_modules_is_a_package():
    # setuptools would leave the modules of a folder without __init__.py out of the wheel.
    folders = {path.parent for name in layer_folders() for path in (ROOT / name).rglob("*.py")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").is_file()) == []


def test_core_dependencies_are_these_six():
    assert PROJECT["dependencies"] == [
        "torch>=2.9",
        "triton>=3.6; sys_platform == 'linux'",
        "numpy>=2",
        "scipy",
        "safetensors",
        "rich",
    ]


def test_every_constraint_is_one_exact_version():
    loose = [str(pin) for pin in pins().values() if not re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier))]
    assert loose == []


@pytest.mark.parametrize("group", ["core", "plots", "oracles", "test", "lint"])
def test_every_dependency_has_a_tested_version_in_its_range(group):
    for line in PROJECT["dependencies"] if group == "core" else EXTRAS[group]:
        required = Requirement(line)
        (pin,) = pins()[canonicalize_name(required.name)].specifier
        assert required.specifier.contains(pin.version), f"{line} does not admit {pin}"


@pytest.mark.parametrize("other", ["torch==2.11.0", "triton==3.6.0", "numpy==2.5.2"])
def test_ranges_admit_the_other_tested_machine(other):
    wanted = Requirement(other)
    (version,) = (specifier.version for specifier in wanted.specifier)
    (required,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == wanted.name)
    assert required.specifier.contains(version)


def test_version_is_written_once():
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", narrowgauge.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{narrowgauge.__version__}]" in changelog or "## [Unreleased]" in changelog
