"""Who takes part in the suite `quantize`, and who does not and why."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench import peers, quantize_competitors
from narrowgauge.bench.peer import Peer
from narrowgauge.bench.quantize_competitors import competitors
from narrowgauge.formats import parse

X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def entered(*schemes: str, ops=("quantize",), functions=None, with_peers: bool = False, skipped=None):
    specs = [parse(scheme) for scheme in schemes]
    skipped = {} if skipped is None else skipped
    return {c.name: c for c in competitors(X, specs, ops, functions or {}, with_peers, "not now", skipped)}


def test_copies_come_first() -> None:
    assert list(entered("int8/row")) == ["clone", "copy_", "int8/row"]


def test_calls_do_what_they_say() -> None:
    found = entered("e4m3fn/row", ops=("quantize", "dequantize", "pair"))
    codes, scale = found["e4m3fn/row"].call()
    values = found["dequantize e4m3fn/row"].call()
    pair, two = found["pair e4m3fn/row"].call(), found["pair e4m3fn/row by two"].call()
    torch.testing.assert_close(codes.view(torch.float8_e4m3fn).float() * scale, values)
    assert all(torch.equal(a, b) for a, b in zip(pair, two, strict=True))
    assert torch.equal(pair[0], codes)
    assert torch.equal(found["clone"].call(), X)
    assert torch.equal(found["copy_"].call(), X)


def test_a_slice_counts_as_often_as_it_fits_into_the_whole() -> None:
    found, _ = peers.find_peers(torch.randn(256, 32), parse("e4m3fn/row"))
    assert found["gfloat"].factor == 256 / peers.GFLOAT_ROWS


def test_peers_that_cannot_serve_a_scheme_say_why() -> None:
    skipped: dict[str, str] = {}
    entered("int8/row", "mxfp8", with_peers=True, skipped=skipped)
    assert skipped["int8/row by ml_dtypes"] == skipped["int8/row by gfloat"] == "does not know int8"
    assert "schemes per tensor or row, not mxfp8" in skipped["mxfp8_e4m3 by ml_dtypes"]
    assert skipped["int8/row, compiled"] == "not now"


def test_peers_that_break_are_left_out_with_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> torch.Tensor:
        raise RuntimeError("no kernel image\nat all")

    monkeypatch.setattr(quantize_competitors, "find_peers", lambda x, spec: ({"odd": Peer(breaks, breaks, "")}, {}))
    skipped: dict[str, str] = {}
    assert "int8/row by odd" not in entered("int8/row", with_peers=True, skipped=skipped)
    assert skipped["int8/row by odd"] == "fails here: RuntimeError: no kernel image"


def test_peers_of_the_cpu_are_no_peers_elsewhere() -> None:
    _, reasons = peers.find_peers(torch.empty(4, 64, device="meta"), parse("int4:mse"))
    assert reasons["ml_dtypes"] == reasons["gfloat"] == "runs on the CPU alone"
