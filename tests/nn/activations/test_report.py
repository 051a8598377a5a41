"""The ledger counts every piece of memory once, and never what the model owns."""

from __future__ import annotations

import json

import torch

from narrowgauge.nn.activations.report import Ledger, SavedReport, SavedRow


def test_memory_counts_once_and_owned_memory_not_at_all() -> None:
    weight, x = torch.ones(10, 10), torch.ones(100)
    codes = torch.ones(100, dtype=torch.int8)
    ledger = Ledger([weight])
    assert ledger.owns(weight.t()[1:])
    assert not ledger.owns(x)
    ledger.enter("", "linear", "as it is", weight.t(), (weight.t(),))
    ledger.enter("Exp", "linear", "int8", x, (codes,))
    ledger.enter("Exp", "linear", "int8", x.view(10, 10), (codes[3:],))
    assert ledger.report().rows == (
        SavedRow("", "linear", "as it is", 1, 0, 0),
        SavedRow("Exp", "linear", "int8", 2, 400, 100),
    )


def test_freed_memory_is_not_mistaken_for_new_memory_at_its_place() -> None:
    ledger = Ledger([])
    for _ in range(5):
        x = torch.ones(64)
        ledger.enter("Exp", "linear", "as it is", x, (x,))
        del x
    assert ledger.report().bytes_kept == 5 * 256


def test_report_is_a_table_and_plain_data() -> None:
    report = SavedReport(
        (SavedRow("SwiGLU", "linear", "computed again", 3, 123456, 0), SavedRow("", "nonlinear", "as it is", 1, 8, 8))
    )
    lines = str(report).splitlines()
    assert lines[1].split() == ["SwiGLU", "linear", "computed", "again", "3", "123,456", "0"]
    assert lines[-1].split() == ["all", "4", "8"]
    assert json.loads(json.dumps(report.to_dict()))["bytes_kept"] == 8
    assert str(SavedReport()).splitlines()[-1].split() == ["all", "0", "0"]
