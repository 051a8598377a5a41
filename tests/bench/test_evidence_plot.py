from pathlib import Path

from narrowgauge.bench.evidence import evidence_of
from narrowgauge.bench.evidence_plot import plot_evidence
from narrowgauge.bench.evidence_run import Outcome, Trial


def test_every_claim_gets_a_panel(tmp_path: Path) -> None:
    values = {"bits": 7.0, "bits without": 8.5, "loss": 2.4, "loss without": 2.4}
    evidence = evidence_of([Outcome(Trial("backslash", seed), values, 1.0) for seed in (0, 1)])
    path = plot_evidence(evidence, tmp_path / "pictures" / "backslash.svg")
    assert path.read_text().count('id="axes_') == 2
