"""One suite in a process of its own, with the launch configurations measured: a part of `narrowgauge.bench.gpu_suite`.

    python -m narrowgauge.bench.suite_part quantize '{"device": "cuda", "shapes": ["4096x14336"]}' part.json

The module `narrowgauge.bench.<suite>` has `run_suite`; one that takes `save` gives what it has so far, so that a
process that is ended has left something. Which configurations the kernels took is kept beside the rows.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from narrowgauge.bench.report import SuiteResult, write_json
from narrowgauge.kernels import tuning

DECISIONS = "tuning"


def run_part(module: str, options: dict[str, Any], path: Path) -> None:
    """Runs `narrowgauge.bench.<module>.run_suite(**options)` within `tuning.measuring()` and writes its result.

    AssertionError where a result is wrong.
    """
    run_suite = import_module(f"narrowgauge.bench.{module}").run_suite

    def save(result: SuiteResult) -> None:
        decisions = [choice._asdict() for choice in tuning.decisions()]
        write_json(path, {**result.to_dict(), DECISIONS: decisions})

    if "save" in inspect.signature(run_suite).parameters:
        options = {**options, "save": save}
    with tuning.measuring():
        result = run_suite(**options)
    save(result)
    # A suite whose wrong competitors only lack their rows says which of them are ours.
    wrong = result.own_wrong() if hasattr(result, "own_wrong") else []
    if wrong:
        raise AssertionError("\n".join(wrong))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the module's docstring. 1 where the results are wrong, which is said."""
    module, options, path = sys.argv[1:] if argv is None else argv
    try:
        run_part(module, json.loads(options), Path(path))
    except AssertionError as difference:
        print(f"{module}: the result is not the reference's, so its speed is not reported\n{difference}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
