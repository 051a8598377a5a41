"""The folders of a checkpoint and of the ones before it: NAME, NAME.previous, NAME.previous-2, …"""

from pathlib import Path

STATE_FILE = "state.json"


def older(path: Path, age: int) -> Path:
    """The folder of the checkpoint that was written ``age`` times before the one at ``path``."""
    if age == 0:
        return path
    return path.with_name(f"{path.name}.previous" if age == 1 else f"{path.name}.previous-{age}")


def generations(path: Path) -> list[Path]:
    """The folders that are there, newest first. One that is missing in between ends nothing: a killed writer may have
    moved only some of them."""
    numbered = [f for f in path.parent.glob(f"{path.name}.previous-*") if f.name.rpartition("-")[2].isdecimal()]
    found = [folder for folder in (path, older(path, 1), *numbered) if folder.exists()]
    return sorted(found, key=lambda folder: age_of(path, folder))


def age_of(path: Path, folder: Path) -> int:
    """Inverse of :func:`older`."""
    if folder == path:
        return 0
    suffix = folder.name.removeprefix(f"{path.name}.previous")
    return int(suffix[1:]) if suffix else 1
