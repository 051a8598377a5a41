"""`narrowgauge priors`: the distributions that weights follow, and what can be made of them; one file an action."""

from __future__ import annotations

import argparse

from narrowgauge.commands import priors_deepshape, priors_pipeline, priors_report, priors_rf8

SUMMARY = "the distributions of weights: fits, reshaping, formats made for them"
DESCRIPTION = """\
Weights follow generalized Gaussians. Which one, how well, and what it saves.

examples:
  narrowgauge priors report model.safetensors --html report.html
  narrowgauge priors deepshape model.safetensors reshaped.safetensors
  narrowgauge priors rf8
  narrowgauge priors pipeline
"""

ACTIONS = {
    "report": priors_report,
    "deepshape": priors_deepshape,
    "rf8": priors_rf8,
    "pipeline": priors_pipeline,
}
"""Action → module, in the order of `--help`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `narrowgauge priors` and their flags."""
    chosen = parser.add_subparsers(metavar="ACTION", required=True, title="actions", dest="action")
    for name, module in ACTIONS.items():
        action = chosen.add_parser(name, help=module.SUMMARY, description=module.DESCRIPTION)
        module.add_arguments(action)
        action.set_defaults(parser=action)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    return ACTIONS[args.action].run(args)
