"""The suite `gemm`: what is right is timed in shares of what was measured, what is wrong has no time."""

from __future__ import annotations

import re
import time

import pytest
import torch

from narrowgauge.bench import gemm
from narrowgauge.bench.ceilings import Probes
from narrowgauge.bench.gemm import GemmResult, choose_problems, run_suite
from narrowgauge.bench.own_function import OwnFunction
from narrowgauge.bench.poison import WrongResult
from narrowgauge.kernels.op import Sample

SHAPE = "24x32x256"


@pytest.fixture(autouse=True)
def conformance_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "check_samples", lambda op, device, select: 1)


def run(*functions: OwnFunction, shapes=(SHAPE,), schemes=("e4m3fn/row",), weight_schemes=(), peers=False, **options):
    probes = Probes(size=64, copy_bytes=1 << 16)
    return run_suite(shapes=shapes, schemes=schemes, weight_schemes=weight_schemes, functions=functions, peers=peers,
                     probes=probes, **options)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> GemmResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm, "check_samples", lambda op, device, select: 1)
        return run(
            shapes=(SHAPE, "5x7x33"), schemes=("e4m3fn/row", "nvfp4"), weight_schemes=("int4/1x128",), peers=True
        )


def test_rows_of_each_problem(result: GemmResult) -> None:
    names = [row.name for row in result.rows]
    for problem in (SHAPE, "5x7x33"):
        for competitor in ("torch.mm", "scaled_gemm e4m3fn/row", "block_scaled_gemm nvfp4",
                           "weight_only_gemm int4/1x128", "torch._int_mm"):  # fmt: skip
            assert f"{problem}: {competitor}" in names
    assert len(set(names)) == len(names)
    assert not result.wrong


def test_figures_belong_together(result: GemmResult) -> None:
    flops = 2.0 * 24 * 32 * 256
    for row in result.rows:
        if not row.name.startswith(SHAPE):
            continue
        figures = row.figures
        seconds = figures["milliseconds"] / 1e3
        assert figures["tflop_per_s"] * 1e12 == pytest.approx(flops / seconds)
        assert figures["intensity_flop_per_byte"] * figures["gb_per_s"] * 1e9 == pytest.approx(flops / seconds)
        assert figures["peak_percent"] > 0
        assert figures["copy_percent"] > 0
    assert result.ceilings["copy_gb_per_s"] > 0
    assert next(row.ratio for row in result.rows if row.name == f"{SHAPE}: torch.mm") == 1.0


def test_what_cannot_serve_is_named(result: GemmResult) -> None:
    assert "needs an NVIDIA GPU" in result.skipped[f"{SHAPE}: torch scaled_mm 1x128 · 128x128"]
    assert "takes N in multiples of 16" in result.skipped["5x7x33: torch._scaled_mm row"]


def test_a_roofline_can_be_drawn(result: GemmResult, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from narrowgauge.bench.roofline import plot

    assert plot(result, tmp_path / "roofline.png").stat().st_size > 0


def test_result_is_json(result: GemmResult) -> None:
    content = result.to_dict()
    assert content["settings"]["problems"][0] == {"name": SHAPE, "m": 24, "n": 32, "k": 256}
    assert content["wrong"] == {}


def right(x, w):
    return x @ w.t()


class Cached:
    """Right once; remembers by the identity and the version of its operands."""

    def __init__(self) -> None:
        self.kept = {}

    def __call__(self, x, w):
        key = id(x), x._version, id(w), w._version
        if key not in self.kept:
            self.kept[key] = x @ w.t()
        return self.kept[key].clone()


def unwritten(x, w):
    """Leaves the last row as it was found."""
    y = x.new_empty(x.shape[0], w.shape[0])
    y[:-1] = x[:-1] @ w.t()
    return y


class StopsWorking:
    """Right until it has been checked, then a constant."""

    def __init__(self) -> None:
        self.calls, self.last = 0, None

    def __call__(self, x, w):
        self.calls += 1
        if self.calls <= 3:
            self.last = x @ w.t()
        return self.last.clone()


def raising(x, w):
    raise RuntimeError("no such instruction\nand more")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Cached(), "new numbers, after it was timed"),
        (StopsWorking(), "new numbers, after it was timed"),
        (unwritten, r"32 of 768 elements are out of bound; at \(23, 0\): got nan"),
        (lambda x, w: torch.zeros(x.shape[0], w.shape[0]), "elements are out of bound|errs by"),
        (lambda x, w: x.mul_(1.5) @ w.t(), "overwrote an operand"),
        (lambda x, w: (x @ w.t()).half(), "returned torch.float16"),
        (raising, "raised RuntimeError: no such instruction$"),
    ],
)
def test_a_wrong_function_has_no_time(function, message: str) -> None:
    result = run(OwnFunction("mine:wrong", function), OwnFunction("mine:right", right))
    names = [row.name.split(": ", 1)[1] for row in result.rows]
    assert names == ["torch.mm", "scaled_gemm e4m3fn/row", "mine:right"]
    (name,) = result.own_wrong()
    assert name == f"{SHAPE}: mine:wrong"
    assert re.search(message, result.wrong[name])


def test_a_wrong_peer_is_shown_and_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: torch.zeros(a.shape[0], b.shape[1], dtype=torch.int32))
    result = run(peers=True)
    assert "out of bound" in result.wrong[f"{SHAPE}: torch._int_mm"]
    assert result.own_wrong() == []


def test_a_peer_that_raises_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda x, codes, factors: raising(x, codes))
    result = run(peers=True)
    assert result.skipped[f"{SHAPE}: torch._weight_int8pack_mm"] == "raised RuntimeError: no such instruction"


def test_a_slow_peer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = torch._weight_int8pack_mm

    def slow(x, codes, factors):
        time.sleep(0.02)
        return multiply(x, codes, factors)

    monkeypatch.setattr(gemm, "LONGEST_CALL", 0.01)
    monkeypatch.setattr(torch, "_weight_int8pack_mm", slow)
    result = run(peers=True)
    reason = result.skipped[f"{SHAPE}: torch._weight_int8pack_mm"]
    assert re.fullmatch(r"right, but a call takes 0.02\d* s, \d+ times torch.mm", reason)


def test_a_wrong_operator_stops_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(op, device, select) -> None:
        raise AssertionError(f"{op.name}: 1 of 6 elements are out of bound")

    monkeypatch.setattr(gemm, "check_samples", wrong)
    with pytest.raises(AssertionError, match="scaled_gemm"):
        run()


def test_a_wrong_baseline_stops_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narrowgauge.bench.gemm_own.torch.mm", lambda a, b: torch.zeros(a.shape[0], b.shape[1]))
    with pytest.raises(WrongResult):
        run()


def test_quantisation_with_the_product() -> None:
    names = [row.name for row in run(quantize=True, schemes=("mxfp4",)).rows]
    assert f"{SHAPE}: quantize + scaled_gemm mxfp4" in names


def test_progress_is_told_and_what_there_is_kept() -> None:
    seen, kept = [], []
    run(show=lambda *told: seen.append(told), save=lambda part: kept.append(len(part.to_dict()["rows"])),
        shapes=(SHAPE, "4x4x4"))  # fmt: skip
    assert seen == [(0, 2, SHAPE), (1, 2, "4x4x4")]
    assert kept == [2, 4]


def test_samples_of_the_timed_schemes_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {}

    def record(op, device, select) -> int:
        samples = [Sample(scheme, (1, scheme)) for scheme in ("mxfp8", "nf4/1x64", "e5m2", "mxfp4")]
        taken[op.name] = [sample.name for sample in samples if select(sample)]
        return 1

    monkeypatch.setattr(gemm, "check_samples", record)
    run(schemes=("mxfp4",), weight_schemes=("nf4/1x64",))
    assert set(taken) == {"scaled_gemm", "block_scaled_gemm", "weight_only_gemm"}
    assert all(names == ["mxfp8", "nf4/1x64", "mxfp4"] for names in taken.values())


def test_only_products_with_a_plain_x() -> None:
    names = [row.name for row in run(schemes=(), weight_schemes=("int8/row",)).rows]
    assert names == [f"{SHAPE}: torch.mm", f"{SHAPE}: weight_only_gemm int8/row"]


def test_chosen_problems() -> None:
    assert [p.name for p in choose_problems(shapes=[SHAPE])] == [SHAPE]
    names = {p.name for p in choose_problems()}
    assert "llama3-8b qkv 64x1536x1024" in names
    assert len(names) == 8
    assert {p.n for p in choose_problems(device="cuda")} == {6144, 4096, 28672}
    (shape, layer) = choose_problems(["qwen3-8b"], ["3x4x5"], layers=["o"], tokens=[8], passes=["wgrad"])
    assert (shape.m, layer.m, layer.k) == (3, 4096, 8)
    with pytest.raises(ValueError, match="tokens: is of the layers of a model"):
        choose_problems(shapes=[SHAPE], tokens=[3])
