"""Build the sdist and the wheel, install the wheel aside, and import every module from there.

    python tests/wheel_check.py

Needs setuptools and pip in the interpreter that runs it, and nothing from the network. Exit status 1 and a
line for each finding: a file is missing, something lands outside `narrowgauge`, a module does not import.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "narrowgauge"

IMPORT_ALL = """
import importlib, sys
site, names = sys.argv[1], sys.argv[2:]
sys.path.insert(0, site)
for name in names:
    module = importlib.import_module(name)
    assert module.__file__.startswith(site), f"{name} came from {module.__file__}"
"""

BARE_NAMES = """
import importlib.util, sys
root, names = sys.argv[1], sys.argv[2:]
for name in names:
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations or [] if spec else []
    if any(place.startswith(root) for place in places):
        print(name)
"""


def expected_files() -> set[str]:
    """What a wheel has to hold: every file beside an `__init__.py`, notes for readers excepted."""
    files = set()
    # os.walk follows the links, Path.rglob does not before Python 3.13.
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        if "__init__.py" in names:
            inside = Path(folder).relative_to(PACKAGE.parent)
            files |= {(inside / name).as_posix() for name in names if Path(name).suffix not in {".md", ".pyc"}}
    return files


def copy_sources(to: Path) -> Path:
    """A copy of what the build reads, so that the checkout stays clean and no earlier build leaks in."""
    layers = [link.name for link in PACKAGE.iterdir() if link.is_symlink()]
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ["src", *layers]:
        shutil.copytree(ROOT / name, to / name, symlinks=True, ignore=skip)
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, to / name)
    return to


def build(kind: str, sources: Path, out: Path) -> Path:
    """Run the build backend's `build_sdist` or `build_wheel` in `sources`; the path of what it built."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=sources, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"build_{kind} failed:\n{done.stdout}{done.stderr}")
    return out / done.stdout.split()[-1]


def wheel_findings(wheel: Path, label: str) -> list[str]:
    """Files that `wheel` lacks, and files that lie outside the package and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = [f"{label}: {name} is missing" for name in sorted(expected_files() - names)]
    tops = {name.split("/")[0] for name in names}
    strays = [t for t in sorted(tops) if t != "narrowgauge" and not t.endswith(".dist-info")]
    return missing + [f"{label}: {stray} would be installed beside narrowgauge" for stray in strays]


def install_findings(wheel: Path, scratch: Path) -> list[str]:
    """Install `wheel` without its dependencies into a folder of its own; import every module from there."""
    site = scratch / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    names = sorted(
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in expected_files()
        if path.endswith(".py")
    )
    # -I: neither the current folder nor PYTHONPATH may lend a module.
    importing = [sys.executable, "-I", "-c", IMPORT_ALL, str(site), *names]
    done = subprocess.run(importing, cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        return [f"the installed wheel does not import:\n{done.stderr}"]
    print(f"wheel: {len(names)} modules import from {wheel.name}")
    return []


def bare_findings(scratch: Path) -> list[str]:
    """Layers that this environment, editable install included, can import without the package's name."""
    layers = [link.name for link in PACKAGE.iterdir() if link.is_symlink()]
    looking = [sys.executable, "-I", "-c", BARE_NAMES, str(ROOT), *layers]
    done = subprocess.run(looking, cwd=scratch, capture_output=True, text=True, check=True)
    return [f"`import {name}` finds this checkout; only narrowgauge.{name} may" for name in done.stdout.split()]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        sources = copy_sources(scratch / "sources")
        sdist = build("sdist", sources, scratch)
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch / "unpacked", filter="data")
        from_tree = build("wheel", sources, scratch / "from-tree")
        (unpacked,) = (scratch / "unpacked").iterdir()
        from_sdist = build("wheel", unpacked, scratch / "from-sdist")
        findings = wheel_findings(from_tree, "wheel") + wheel_findings(from_sdist, "wheel built from the sdist")
        findings += install_findings(from_sdist, scratch) + bare_findings(scratch)
    for finding in findings:
        print(finding, file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
