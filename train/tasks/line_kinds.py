"""Lines of the standard library in three kinds, a small text classification.

| label | kind | example |
|---|---|---|
| 0 | control flow | ``if self.fp is None:`` |
| 1 | prose: a comment without its ``#`` | ``The caller holds the lock`` |
| 2 | definition or import | ``def close(self):`` |

Natural text with labels that cost nothing: the task for methods that learn from few labels and much unlabelled text
(Prompt-based Continued Pre-training, arXiv 2305.01711).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.text_files import first_bytes, standard_library_files

KINDS = ("control flow", "prose", "definition")
MIN_BYTES = 12
_READ_BYTES = 2_500_000
_FLOW = re.compile(r"(if|elif|for|while|with|except|return|raise|try|assert)\b")
_DEFINITION = re.compile(r"(def|class|import|from|async def) ")
_PROSE = re.compile(r"# +([A-Za-z][\w',.-]*(?: [\w',.()-]+){2,})$")


@dataclass(frozen=True, slots=True)
class LabelledLine:
    """A line without indentation, ASCII, and the index of its kind in :data:`KINDS`."""

    text: bytes
    label: int


def classify(line: str, max_bytes: int) -> LabelledLine | None:
    """The line as an example, cut to ``max_bytes``; ``None`` where it is of no kind, too short or not ASCII."""
    line = line.strip()
    if prose := _PROSE.match(line):
        text, label = prose[1], 1
    elif _FLOW.match(line):
        text, label = line, 0
    elif _DEFINITION.match(line):
        text, label = line, 2
    else:
        return None
    if len(text) < MIN_BYTES or not text.isascii():
        return None
    return LabelledLine(text[:max_bytes].rstrip().encode(), label)


def _lines(max_bytes: int) -> Iterator[LabelledLine]:
    files = Draws(0, "line kinds: files").shuffled(standard_library_files())  # not the first ones by name alone
    for file in first_bytes(files, _READ_BYTES):
        for line in file.path.read_text(encoding="utf-8", errors="replace").splitlines():
            if (found := classify(line, max_bytes)) is not None:
                yield found


def line_kinds(count: int, *, seed: int, max_bytes: int = 48) -> list[LabelledLine]:
    """``count`` different lines in random order, the kinds in turn (0, 1, 2, 0, …): every slice is balanced.

    Drawn from some megabytes of the library, where each kind has thousands. Raises ``ValueError`` when one has fewer.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if max_bytes < MIN_BYTES:
        raise ValueError(f"max_bytes: expected at least {MIN_BYTES}, got {max_bytes}")
    kinds: list[dict[bytes, LabelledLine]] = [{} for _ in KINDS]
    for line in _lines(max_bytes):
        kinds[line.label].setdefault(line.text, line)
    fewest = min(map(len, kinds))
    if count > fewest * len(KINDS):
        raise ValueError(f"count: expected at most {fewest * len(KINDS)}, got {count}")
    draws = Draws(seed, f"line kinds:{max_bytes}")
    mixed = [draws.shuffled(list(lines.values())) for lines in kinds]
    return [mixed[index % len(KINDS)][index // len(KINDS)] for index in range(count)]
