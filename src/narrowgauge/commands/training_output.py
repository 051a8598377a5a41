"""What a suite that trains writes and says: its files, and who still works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.output import note

if TYPE_CHECKING:
    from narrowgauge.bench.training_run import Trained

Collected = tuple[Mapping[str, Any], Callable[[Path], Path] | None]
"""The document, and what draws the picture into a file: None where there is nothing to draw yet."""


def tell_finished(total: int) -> Callable[[Trained, int], None]:
    """Says of each finished run how it ended and how many are done."""

    def tell(result: Trained, done: int) -> None:
        loss = "diverged" if result.final_loss is None else f"{result.final_loss:.4f} nats per byte"
        note(f"{result.run}: {loss}, {result.seconds:.0f} s; {done} of {total} runs are done")

    return tell


def write_files(runs: Path, out: Path, collect: Callable[[], Collected]) -> Mapping[str, Any]:
    """Writes the document and the picture beside it; returns the document.

    Of several processes the last one to come here sees all the others' runs.
    """
    from narrowgauge.bench.report import write_json
    from narrowgauge.bench.run_lock import exclusive

    with exclusive(runs / "report.lock", wait=True):
        content, draw = collect()
        note(f"written: {write_json(out, content)}")
        if find_spec("matplotlib") is None:
            note("no picture: matplotlib is not installed (pip install 'narrowgauge[plots]')")
        elif draw is not None:
            note(f"written: {draw(out.with_suffix('.png'))}")
    return content


def tell_pending(pending: int, total: int) -> None:
    """Says how many runs other processes have in hand."""
    if pending:
        note(f"in the hands of another process, which will write all results: {pending} of {total} runs")
