"""docs/evidence.md, whole: what every method claims, and what its experiment showed here."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from narrowgauge.bench.evidence import Evidence, without_evidence
from narrowgauge.train import Claim, Judged, get_published

HEAD = """\
# Evidence for the methods

Printed by `narrowgauge methods check --all`; a test compares this page with the result files in
`bench/results/methods`, which also have every number of every seed.

Each method runs a scaled-down experiment against a control, over several seeds, in minutes on two cores. A claim
compares a treatment with its control seed by seed: mean difference, 95 % interval (Student's t).

| verdict | meaning |
|---|---|
| shown | the whole interval is on the claimed side of the margin |
| not shown at this scale | the interval does not say, or the effect is smaller than the margin |
| opposite | the whole interval is on the other side |

Models of a hundred thousand parameters do not always do what models of a billion do. What did not show up here stands
here as such. Claims marked *told* are reported and not needed for the verdict.

"""


def evidence_page(found: Sequence[Evidence]) -> str:
    """The page: a table of all methods, then each with its claims."""
    lines = [HEAD]
    if found:
        machines = sorted({machine_of(evidence) for evidence in found})
        lines.append("Run on: " + "; ".join(machines) + ".\n\n")
    lines.append("| method | paper | numerics | verdict | seeds | seconds a seed |\n|---|---|---|---|---|---|\n")
    for evidence in found:
        cls = get_published(evidence.method)
        lines.append(
            f"| [{evidence.method}](#{evidence.method}) | {source(cls.paper, cls.arxiv)} | {numerics(evidence)}"
            f" | {evidence.verdict} | {len(evidence.values)} | {fmean(evidence.seconds.values()):.0f} |\n"
        )
    if missing := without_evidence(found):
        lines.append(f"\nNot run yet: {', '.join(missing)}.\n")
    for name in dict.fromkeys(evidence.method for evidence in found):
        own = [evidence for evidence in found if evidence.method == name]
        lines.append(f"\n## {name}\n\n{get_published(name).summary}\n\n{own[0].setting}\n")
        for evidence in own:
            lines.append(f"\n{numerics(evidence)}: **{evidence.verdict}**\n\n{claims_table(evidence.judged)}")
    return "".join(lines)


def claims_table(judged: Sequence[Judged]) -> str:
    """A row for each claim."""
    head = ("claim", "treatment", "control", "difference", "95 % interval", "asked", "verdict")
    rows = [f"| {' | '.join(head)} |\n", "|---" * len(head) + "|\n"]
    for result in judged:
        rows.append("| " + " | ".join(claim_cells(result)) + " |\n")
    return "".join(rows)


def claim_cells(result: Judged) -> tuple[str, ...]:
    """Claim, means of treatment and control, difference, interval, what was asked, verdict."""
    claim, effect = result.claim, result.effect
    outcome = result.verdict if claim.judged else f"told: {result.verdict}"
    treatment = f"{fmean(result.treatment):.4g} ({claim.treatment})"
    control = f"{fmean(result.control):.4g}" + (f" ({claim.control})" if isinstance(claim.control, str) else "")
    if effect is None:
        return claim.text, treatment, control, "-", "-", asked(claim), outcome
    interval = f"{effect.low:+.3g} … {effect.high:+.3g}"
    return claim.text, treatment, control, f"{effect.difference:+.3g}", interval, asked(claim), outcome


def asked(claim: Claim) -> str:
    """What the difference has to be."""
    side, limit = ("below", -claim.margin) if claim.better == "lower" else ("above", claim.margin)
    return f"{side} {limit:+g}" if limit else f"{side} 0"


def numerics(evidence: Evidence) -> str:
    """What the linear layers and AdamW's moments are in."""
    if not evidence.is_composed:
        return "float32"
    return f"`{evidence.recipe or 'float32'}`, moments `{evidence.state or 'fp32'}`"


def source(paper: str, arxiv: str) -> str:
    """The paper, with its address where it has one."""
    return f"[{paper}](https://arxiv.org/abs/{arxiv})" if arxiv else paper


def machine_of(evidence: Evidence) -> str:
    """Processor and version of torch."""
    machine = evidence.machine
    return f"{machine['cpu']} ({machine['cores']} cores), torch {machine['torch']}"
