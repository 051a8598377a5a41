"""`narrowgauge methods`: the published training methods, what each does, and what its experiment showed."""

from __future__ import annotations

import argparse
import inspect
import sys
from dataclasses import MISSING, asdict, fields
from typing import TYPE_CHECKING, Any

from narrowgauge.commands import methods_check
from narrowgauge.commands.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.bench.evidence import Evidence
    from narrowgauge.train import Published

SUMMARY = "published training methods: list, explain, check against a control"
DESCRIPTION = """\
Published training methods. Plug-ins go into a run (`train --method NAME:key=value`); procedures are called from Python.
Each has an experiment that holds its claims against a control; what came out stands in docs/evidence.md.

examples:
  narrowgauge methods list
  narrowgauge methods show ema
  narrowgauge methods check ema --seeds 5
  narrowgauge methods check --all
  narrowgauge train --method ema:decay=0.99
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands of `narrowgauge methods`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    listing = actions.add_parser("list", help="all methods: what, whose, hooks, verdict", description=DESCRIPTION)
    listing.set_defaults(parser=listing, act=run_list)
    showing = actions.add_parser("show", help="one method: mechanism, settings, example, claims, evidence")
    showing.add_argument("name", metavar="NAME", help="a name of `narrowgauge methods list`")
    showing.set_defaults(parser=showing, act=run_show)
    for sub in (listing, showing):
        sub.add_argument("--json", action="store_true", help="print JSON")
    checking = actions.add_parser("check", help=methods_check.SUMMARY, description=methods_check.DESCRIPTION)
    methods_check.add_arguments(checking)
    checking.set_defaults(parser=checking, act=methods_check.run)


def settings_of(cls: type[Published]) -> dict[str, Any]:
    """Name and default of every setting. A method need not be a dataclass; one that is not has none."""
    declared = fields(cls) if hasattr(cls, "__dataclass_fields__") else ()  # type: ignore[arg-type]
    return {field.name: _told(field.default) for field in declared if field.init and field.default is not MISSING}


def _told(value: Any) -> Any:
    """A default as JSON can say it: a function by its name, what is not plain by its text."""
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "__name__", str(value))


def mechanism_of(cls: type[Published]) -> str:
    """The docstring of the method's module; of a method that is a folder, that of the folder."""
    module = sys.modules[cls.__module__]
    folder = sys.modules.get(module.__name__.rpartition(".")[0])
    whole = folder if folder is not None and folder.__name__.rpartition(".")[0] == "narrowgauge.methods" else module
    return inspect.cleandoc(whole.__doc__ or "")


def describe(cls: type[Published], evidence: Evidence | None) -> dict[str, Any]:
    """What `list --json` says of a method."""
    from narrowgauge.train import Procedure
    from narrowgauge.train.registry import hooks_of

    return {
        "name": cls.name,
        "kind": "procedure" if issubclass(cls, Procedure) else "plug-in",
        "summary": cls.summary,
        "paper": cls.paper,
        "arxiv": cls.arxiv or None,
        "hooks": list(hooks_of(cls)),
        "settings": settings_of(cls),
        "verdict": evidence.verdict if evidence else None,
    }


def run_list(args: argparse.Namespace) -> int:
    """Prints the table."""
    from narrowgauge.bench.evidence import COMMITTED, all_evidence
    from narrowgauge.train import METHODS

    known = {evidence.method: evidence for evidence in all_evidence(COMMITTED) if not evidence.is_composed}
    rows = [describe(METHODS[name], known.get(name)) for name in sorted(METHODS)]
    if args.json:
        print_json(rows)
        return 0
    table = []
    for row in rows:
        source = f"{row['paper']}, arXiv {row['arxiv']}" if row["arxiv"] else row["paper"]
        hooks = ", ".join(row["hooks"])
        table.append((row["name"], row["kind"], row["summary"], hooks, row["verdict"] or "not run", source))
    print_table(("<method", "<kind", "<what it does", "<hooks", "<effect", "<source"), table)
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Prints everything about one method."""
    from narrowgauge.bench.evidence import COMMITTED, all_evidence
    from narrowgauge.bench.evidence_page import asked, claim_cells, numerics
    from narrowgauge.train import get_published

    cls = get_published(args.name)
    own = [evidence for evidence in all_evidence(COMMITTED) if evidence.method == cls.name]
    facts = describe(cls, next((evidence for evidence in own if not evidence.is_composed), None))
    experiment = cls.experiment()
    mechanism = mechanism_of(cls)
    if args.json:
        claims = [asdict(claim) for claim in experiment.claims]
        print_json({**facts, "mechanism": mechanism, "usage": cls.usage, "setting": experiment.setting,
                    "claims": claims, "evidence": own})  # fmt: skip
        return 0
    print_text(f"{cls.name} ({facts['kind']}): {cls.summary}\n\n{mechanism}\n")
    if cls.__doc__:
        print_text(inspect.cleandoc(cls.__doc__) + "\n")
    if facts["settings"]:
        print_table(("<setting", "<default"), [(name, repr(value)) for name, value in facts["settings"].items()])
        print_text()
    print_text(f"hooks: {', '.join(facts['hooks']) or 'none'}")
    if cls.usage:
        print_text("use:\n" + "\n".join(f"    {line}" for line in inspect.cleandoc(cls.usage).splitlines()))
    print_text(f"\nExperiment: {experiment.setting}\n")
    if not own:
        rows = [(claim.text, claim.treatment, str(claim.control), asked(claim)) for claim in experiment.claims]
        print_table(("<claim", "<treatment", "<control", "<asked of the difference"), rows)
        print_text(f"\nNot run yet: narrowgauge methods check {cls.name}")
    for evidence in own:
        print_table(("<claim", "<treatment", "<control", "difference", "<95 %", "<asked", "<verdict"),
                    [claim_cells(result) for result in evidence.judged],
                    title=f"{numerics(evidence)}: {evidence.verdict}")  # fmt: skip
        print_text()
    return 0


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    import narrowgauge.methods  # noqa: F401 - importing it fills the register

    status: int = args.act(args)
    return status
