"""Peers give what they say, in the form they say, or the reason why not."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench import peers
from narrowgauge.bench.peer import Gives, Peer, element_values, nibbles, own_result, percent_equal, slice_rows
from narrowgauge.formats import get, parse

X = torch.randn((96, 64), generator=torch.Generator().manual_seed(0))
EXACT = [("e4m3fn/row", "torch cast"), ("e4m3fn/row", "ml_dtypes"), ("e4m3fn/row", "gfloat"), ("e4m3fn", "torch cast"),
         ("e5m2/row", "torch cast"), ("e5m2fnuz/row", "torch cast"), ("e2m1fn/row", "ml_dtypes"),
         ("binary8p1se/row", "gfloat"), ("e3m4fn/row", "gfloat"), ("ue4m3fn/row", "gfloat")]  # fmt: skip


@pytest.mark.parametrize(("scheme", "name"), EXACT)
def test_casts_of_scaled_values_give_our_codes(scheme: str, name: str) -> None:
    spec = parse(scheme)
    peer = peers.PEERS[name](X, spec)
    assert peer.gives is Gives.CODES
    assert percent_equal(peer, own_result(X, spec)) == 100.0


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "e5m2", "int8/row", "int4", "int8_full/row"])
def test_eager_torch_differs_at_most_where_its_division_rounds(scheme: str) -> None:
    peer = peers.PEERS["torch eager"](X, parse(scheme))
    assert percent_equal(peer, own_result(X, parse(scheme))) > 99.0


def test_a_wrong_peer_shows_in_its_share() -> None:
    ours = own_result(X, parse("e4m3fn/row"))
    theirs = ours.codes.clone()
    theirs[0] ^= 1
    peer = Peer(lambda: theirs, lambda: theirs, "")
    assert percent_equal(peer, ours) == pytest.approx(100 * 95 / 96)


def test_values_and_elements_are_compared_as_numbers() -> None:
    ours = own_result(X, parse("int4/row"))
    elements = element_values(ours.codes, get("int4"))
    assert torch.equal(elements, ours.codes.float())
    for result, gives in ((elements, Gives.ELEMENTS), (ours.dequantize(), Gives.VALUES)):
        assert percent_equal(Peer(lambda: None, lambda part=result: part[:5], "", gives=gives), ours) == 100.0


def test_what_a_peer_does_not_offer_is_a_reason() -> None:
    for scheme, name, reason in (
        ("e4m3fn/1x16", "torch cast", "schemes per tensor or row"),
        ("e4m3fn/row+sr", "ml_dtypes", "only casts, to nearest"),
        ("rf8/row", "torch cast", "has no type for rf8/row"),
        ("rf8/row", "gfloat", "does not know rf8"),
        ("uint8/row", "torch eager", "compared are torch's types and integers"),
    ):
        with pytest.raises(ValueError, match=reason):
            peers.PEERS[name](X, parse(scheme))


def test_two_codes_of_a_byte() -> None:
    packed = torch.tensor([[0x21, 0x43]], dtype=torch.uint8)
    assert nibbles(packed, (1, 4)).tolist() == [[1, 2, 3, 4]]
    assert nibbles(packed, (1, 4), high_first=True).tolist() == [[2, 1, 4, 3]]


def test_a_slice_knows_how_often_it_fits() -> None:
    assert slice_rows(X, 32)[1] == 3.0
    assert slice_rows(X, 1000)[1] == 1.0


OPTIONAL = [
    ("torchao", "torchao", "e4m3fn/row", 100.0),
    ("torchao", "torchao", "mxfp8", 100.0),
    ("torchao", "torchao", "mxfp4:floor", 100.0),
    ("torchao", "torchao", "nvfp4", 100.0),
    ("bitsandbytes", "bitsandbytes", "nf4/1x64", 100.0),
    ("bitsandbytes", "bitsandbytes", "bnb_fp4/row", 98.0),  # it has a code for -0
    ("bitsandbytes", "bitsandbytes", "dynamic8/row", 99.0),  # the maps differ in units of float32
    ("pychop", "pychop", "binary8p3se/row", 100.0),
    ("pychop", "pychop", "mxfp4:floor", 100.0),
    ("mx", "microxcaling", "mxfp8:floor", 100.0),
]


@pytest.mark.parametrize(("package", "name", "scheme", "least"), OPTIONAL)
def test_optional_peers_agree(package: str, name: str, scheme: str, least: float) -> None:
    pytest.importorskip(package)
    peer = peers.PEERS[name](X, parse(scheme))
    assert percent_equal(peer, own_result(X, parse(scheme))) >= least


def test_bitsandbytes_states_its_blocks() -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match=r"takes blocks of 64, 128, .* not of 48"):
        peers.PEERS["bitsandbytes"](torch.randn(2, 48), parse("nf4/row"))


@pytest.mark.slow
def test_qtorch_agrees_where_no_ties_are() -> None:
    pytest.importorskip("qtorch")
    peer = peers.PEERS["qtorch"](X, parse("e4m3fn/row"))
    assert percent_equal(peer, own_result(X, parse("e4m3fn/row"))) > 99.9
    assert torch.isfinite(peer.result()).all()
