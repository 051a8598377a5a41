"""Metrics as JSON lines."""

import json
import math
from pathlib import Path
from typing import TextIO

from narrowgauge.train.loggers.base import Values

_LINE_START = '{"step": '


class JsonlLogger:
    """One JSON object a line and step; a metric that is not finite is ``null``.

    A run that starts at step 0 begins a new file. A resumed run keeps the lines up to its step and drops the
    later ones, which it will write again. Folders above it are made. ``ValueError`` at the start when
    the file exists and is no such log.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def start(self, first: int, last: int) -> None:
        kept = self._lines_until(first) if self.path.exists() else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8")
        self._file.writelines(kept)

    def _lines_until(self, step: int) -> list[str]:
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        torn = bool(lines) and not lines[-1].endswith("\n")  # by a kill
        if torn and lines[-1][: len(_LINE_START)] == _LINE_START[: len(lines[-1])]:
            lines.pop()
        kept = []
        for number, line in enumerate(lines, start=1):
            try:
                line_step = json.loads(line)["step"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"path: line {number} of {self.path} is not a log's; give another path") from error
            if line_step <= step:
                kept.append(line)
        return kept

    def log(self, step: int, metrics: Values) -> None:
        if self._file is None:
            raise RuntimeError("JsonlLogger.log: called before start")
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def stop(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
