"""`narrowgauge numerics`: results on stdout, the rest on stderr, exit status 0, 1 or 2."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from narrowgauge.cli import main
from narrowgauge.commands import numerics, numerics_implementations
from narrowgauge.formats import quantize_reference

SOURCES = Path(__file__).resolve().parent.parent / "src"
SMALL = ("--distribution", "normal", "--size", "16x64")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands read and write below an empty folder, and find modules there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `narrowgauge numerics WORDS`."""
    try:
        status = main(["numerics", *words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def checkpoint(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    tensors = {
        "layers.0.attn.weight": torch.from_numpy(rng.standard_normal((24, 64)).astype(np.float32)),
        "layers.0.ffn.weight": torch.from_numpy(rng.standard_t(2, (48, 64)).astype(np.float32)).bfloat16(),
        "norm.weight": torch.ones(64),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("action", numerics.ACTIONS)
def test_every_help_teaches_with_examples_whose_flags_exist(action, capsys):
    from narrowgauge.cli import build_parser

    status, out, _ = run(capsys, action, "--help")
    assert status == 0
    assert f"usage: narrowgauge numerics {action}" in out
    description = numerics.ACTIONS[action].DESCRIPTION
    examples = [
        shlex.split(line.split(" > ")[0])
        for line in description.splitlines()
        if line.startswith("  narrowgauge numerics")
    ]
    assert len(examples) >= 3
    for example in examples:
        _, unknown = build_parser().parse_known_args(example[1:])
        assert unknown == [], example


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("swep",), "did you mean 'sweep'?"),
        (("sweep", "--distribution", "norml"), "normal"),
        (("sweep", "--scheme", "e4m3f/row"), "nearest: e4m3fn"),
        (("sweep", "--granularity", "row"), "granularities: got them without formats"),
        (("sweep", "--format", "e4m3fn", "--granularity", "rows"), "accepted: tensor, row, col"),
        (("sweep", "--size", "64"), "size: got '64', accepted: rows and columns, as 256x1024"),
        (("sweep", "--forma", "e4m3fn"), "did you mean '--format'?"),
        (("report", "nowhere.safetensors"), "nowhere.safetensors"),
        (("report", "nowhere.safetensors", "--sample", "many"), "sample: got 'many', accepted: a number of elements"),
        (("compare", "a.npy", "b.npy"), "a.npy does not exist"),
        (("compare", "a.pt", "b.npy"), "accepted: .npy and .safetensors files"),
        (("diff", "reference", "toch", "--format", "e4m3fn"), "did you mean 'torch'?"),
        (("diff", "reference", "torch", "--format", "nf4"), "torch has no type for nf4"),
        (("diff", "reference", "torch", "--scheme", "e4m3fn/row"), "torch casts, accepted: a format"),
        (("diff", "reference", "torch", "--scheme", "e4m3fn/row+sr"), "accepted: reference, narrowgauge, triton"),
        (("diff", "reference", "torch", "--format", "mxfp4"), "compare it with --scheme mxfp4"),
        (("diff", "reference", "narrowgauge", "--format", "fp16"), "narrowgauge: format: kernels serve"),
        (("diff", "reference", "gfloat", "--format", "int8"), "gfloat: it does not describe int8"),
        (
            ("diff", "reference", "torch", "--format", "e5m2", "--ignore", "NaN"),
            "ignore: got 'NaN', accepted: NaN sign",
        ),
        (("diff", "reference", "torch", "--format", "e5m2", "--budget", "0"), "budget: got 0"),
        (("diff", "reference", "torch"), "one of the arguments --format --scheme is required"),
        (("check", "json", "--scheme", "e4m3fn"), "accepted: MODULE:FUNCTION"),
        (("check", "no_such_module:f", "--scheme", "e4m3fn"), "importing 'no_such_module' failed with ModuleNotFound"),
        (("check", "json:dump_s", "--scheme", "e4m3fn"), "did you mean 'dumps'?"),
        (("check", "json:__doc__", "--scheme", "e4m3fn"), "is a str, accepted: a function"),
        (("check", "json:dumps", "--scheme", "e4m3fn", "--values"), "--values: goes with --gemm"),
        (("check", "json:dumps", "--scheme", "e4m3fn", "--device", "cuda"), "--device: goes with --tensor"),
        (("check", "json:dumps", "--scheme", "e4m3fn", "--scheme", "int8"), "--scheme: got 2, accepted: one"),
        (("check", "json:dumps", "--scheme", "e4m3fn", "--contract", "near"), "did you mean 'nearest'?"),
        (("check", "json:dumps", "--scheme", "e4m3fn", "--gemm", "--nan", "zero"), "--nan: goes with quantizers"),
        (("check", "json:dumps", "--scheme", "e4m3fn", "--skip", "tyes"), "skip: got 'tyes'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(words, hint, capsys):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("narrowgauge numerics")
    assert hint in err


def test_sweep_prints_the_table_and_what_quantised(capsys):
    status, out, err = run(capsys, "sweep", *SMALL, "--scheme", "e4m3fn/row", "--scheme", "fp16")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].split()[:3] == ["tensor", "scheme", "bits"]
    assert "by the torch kernels: e4m3fn/row" in out
    assert "by the numpy definition, because no kernel serves them: fp16" in out


def test_sweep_json_is_a_result_that_can_be_read_back(capsys):
    from narrowgauge.numerics import SweepResult

    words = (
        "sweep",
        *SMALL,
        "--format",
        "e4m3fn",
        "--format",
        "mxfp4",
        "--granularity",
        "row",
        "--seed",
        "3",
        "--json",
    )
    result = SweepResult.from_json(run(capsys, *words)[1])
    assert {row.scheme for row in result.rows} == {"e4m3fn/row", "mxfp4"}
    assert result.seed == 3


def test_sweep_gives_the_same_figures_by_kernels_and_by_the_definition(capsys):
    words = ("sweep", *SMALL, "--scheme", "nvfp4", "--scheme", "int8/1x128", "--scheme", "e5m2+sr", "--json")
    fast, exact = (json.loads(run(capsys, *words, *more)[1]) for more in ((), ("--exact",)))
    assert fast["rows"] == exact["rows"]
    assert exact["notes"] == ["Quantised by the numpy definition."]


def test_sweep_marks_the_best_within_the_bits_and_names_what_cannot_be(capsys):
    words = ("sweep", *SMALL, "--scheme", "int8/row", "--scheme", "int4/row", "--scheme", "nvfp4:floor")
    _, out, _ = run(capsys, *words, "--max-bits", "6")
    (best,) = (line for line in out.splitlines() if " * " in line)
    assert "int4/row" in best
    assert "left out: nvfp4:floor" in out


def test_sweep_writes_html_and_figure(capsys, folder):
    _, _, err = run(capsys, "sweep", *SMALL, "--scheme", "int8", "--html", "s.html", "--png", "s.png")
    assert err.splitlines() == ["written: s.html", "written: s.png"]
    assert (folder / "s.html").read_text().lstrip().lower().startswith("<!doctype html")
    assert (folder / "s.png").read_bytes().startswith(b"\x89PNG")


def test_report_goes_through_the_matrices_of_a_checkpoint(capsys, checkpoint):
    words = ("report", str(checkpoint), "--scheme", "e4m3fn/row", "--scheme", "int8/row")
    status, out, _ = run(capsys, *words, "--matrix")
    assert status == 0
    # The heavy tails of a Student t are the harder ones, and come first.
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["layers.0.ffn.weight", "layers.0.attn.weight"]
    assert "left out: every scheme of norm.weight" in out
    only = json.loads(run(capsys, *words, "--only", "attn", "--sample", "640", "--json")[1])
    assert [row["tensor"] for row in only["rows"]] == ["layers.0.attn.weight"] * 2
    assert only["tensors"][0]["info"]["sample"] == "10 of 24 rows"


def test_report_of_no_tensor_says_what_there_is(capsys, checkpoint):
    status, _, err = run(capsys, "report", str(checkpoint), "--only", "mlp")
    assert status == 2
    assert "no tensor's name contains mlp; names begin with: layers.0.attn.weight" in err


def arrays(folder: Path) -> None:
    x = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "q.npy", quantize_reference(x, "e4m3fn/row").dequantize().astype(np.float32))


def test_compare_measures_two_arrays(capsys, folder):
    arrays(folder)
    status, out, _ = run(capsys, "compare", "q.npy", "x.npy", "--scheme", "e4m3fn/row", "--png", "e.png")
    assert status == 0
    assert "sqnr_db" in out
    report = json.loads(run(capsys, "compare", "q.npy", "x.npy", "--scheme", "e4m3fn/row", "--json")[1])[""]
    assert 30 < report["sqnr_db"] < 35
    assert report["scheme"] == "e4m3fn/row"
    assert report["ulp_over_half"] == 0
    assert (folder / "e.png").read_bytes().startswith(b"\x89PNG")


def test_compare_fails_below_the_least_sqnr_and_for_a_new_nan(capsys, folder):
    arrays(folder)
    assert run(capsys, "compare", "q.npy", "x.npy", "--min-sqnr", "30")[0] == 0
    status, out, err = run(capsys, "compare", "q.npy", "x.npy", "--min-sqnr", "40")
    assert status == 1
    assert "sqnr_db" in out
    assert "expected at least 40 dB" in err
    q = np.load(folder / "q.npy")
    q[0, 0] = np.nan
    np.save(folder / "q.npy", q)
    status, _, err = run(capsys, "compare", "q.npy", "x.npy", "--min-sqnr", "-1000")
    assert status == 1
    assert "1 new NaN" in err


def test_compare_takes_the_tensors_that_two_checkpoints_share(capsys, folder, checkpoint):
    save_file({"norm.weight": torch.ones(64), "other": torch.ones(3)}, folder / "b.safetensors")
    status, out, err = run(capsys, "compare", "b.safetensors", str(checkpoint))
    assert status == 0
    assert out.splitlines()[0] == "norm.weight"
    assert "not compared: other is in one of the files only" in err
    np.save(folder / "n.npy", np.ones(64))
    named = run(capsys, "compare", "n.npy", str(checkpoint), "--tensor", "norm.weight", "--json")[1]
    assert json.loads(named)["norm.weight"]["max_abs_error"] == 0
    assert "nearest: norm.weight" in run(capsys, "compare", "n.npy", str(checkpoint), "--tensor", "norm.weigth")[2]
    assert "no tensor name in common" in run(capsys, "compare", "n.npy", str(checkpoint))[2]


def test_compare_never_unpickles(capsys, folder):
    np.save(folder / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    status, _, err = run(capsys, "compare", "o.npy", "o.npy")
    assert status == 2
    assert "no .npy file of numbers" in err
    (folder / "d.safetensors").write_bytes(b"not a checkpoint")
    assert "is no safetensors file" in run(capsys, "compare", "d.safetensors", "d.safetensors")[2]


def test_diff_of_equal_implementations_is_status_0(capsys):
    status, out, err = run(capsys, "diff", "reference", "narrowgauge", "--format", "e2m1fn", "--budget", "2000")
    assert (status, err) == (0, "")
    assert "reference and narrowgauge, e2m1fn:static=1.0: 0 of " in out
    assert run(capsys, "diff", "reference", "narrowgauge", "--scheme", "nvfp4", "--budget", "2000")[0] == 0


@pytest.mark.skipif(numerics_implementations.find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("words", [("--format", "e4m3fn", "--ignore", "NaN sign"), ("--scheme", "mxfp4")], ids=" ".join)
def test_diff_runs_the_triton_kernel(capsys, words):
    assert run(capsys, "diff", "narrowgauge", "triton", *words, "--budget", "500")[0] == 0


def test_diff_of_stochastic_schemes_rounds_by_the_seed(capsys):
    words = ("diff", "reference", "narrowgauge", "--scheme", "e4m3fn/row+sr", "--budget", "500")
    assert run(capsys, *words)[0] == 0
    assert run(capsys, *words, "--seed", "5")[0] == 0


def test_diff_groups_by_cause_with_an_example(capsys):
    words = ("diff", "reference", "ml_dtypes", "--format", "e4m3fn", "--budget", "2000")
    status, out, _ = run(capsys, *words)
    assert status == 1
    assert "overflow" in out
    assert "0x7e (448.0)" in out
    report = json.loads(run(capsys, *words, "--json")[1])
    assert {group["cause"] for group in report["groups"]} == {"overflow", "infinity"}
    ignored = run(capsys, *words, "--ignore", "overflow", "--ignore", "infinity")
    assert ignored[0] == 0
    assert run(capsys, "diff", "reference_nonsaturating", *words[2:])[0] == 0


def test_diff_with_gfloat_differs_in_the_sign_of_nan_alone(capsys):
    words = ("diff", "reference", "gfloat", "--format", "e4m3fn", "--budget", "500")
    status, out, _ = run(capsys, *words)
    assert status == 1
    assert "1 of " in out
    assert run(capsys, *words, "--ignore", "NaN sign")[0] == 0
    assert run(capsys, "diff", "reference", "gfloat", "--format", "e2m1fn", "--budget", "500")[0] == 0


def test_diff_names_a_package_that_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(numerics_implementations, "find_spec", lambda name: None)
    for name in ("gfloat", "triton"):
        status, _, err = run(capsys, "diff", "reference", name, "--format", "e4m3fn")
        assert status == 2
        assert f"{name}: the package {name} is not installed" in err
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert "ml_dtypes is not installed" in run(capsys, "diff", "reference", "ml_dtypes", "--format", "e4m3fn")[2]


def test_diff_says_why_triton_or_cuda_cannot_run(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "no CUDA device" in run(capsys, "diff", "reference", "cuda", "--format", "e4m3fn")[2]
    assert "triton came without its interpreter" in run(capsys, "diff", "reference", "triton", "--format", "e4m3fn")[2]


def test_diff_in_a_process_of_its_own_turns_on_the_interpreter(folder):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SOURCES)}  # a machine with a device is one without
    words = ["numerics", "diff", "narrowgauge", "triton", "--format", "e2m1fn", "--budget", "64"]
    done = subprocess.run(
        [sys.executable, "-m", "narrowgauge", *words],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


KERNELS = """
import ml_dtypes
import numpy as np

def quantize(x):
    amax = np.abs(x).max(axis=-1, keepdims=True, initial=0)
    scale = np.where(amax == 0, np.float32(1), np.maximum(amax / np.float32(448), np.float32(2**-126)))
    return (x / scale).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn), scale

def by_bfloat16(x):
    codes, scale = quantize(x)
    return (x / scale).astype(ml_dtypes.bfloat16).astype(np.float32).clip(-448, 448).astype(codes.dtype), scale

class Kernels:
    @staticmethod
    def matmul(a, b):
        return (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32)

def short(a, b):
    k = a.shape[1] // 8 * 8
    return (a[:, :k] @ b[:, :k].T).astype(np.float32)

def torch_cast(x):
    import torch
    return x.to(torch.float8_e5m2)

def ours(x):
    import narrowgauge
    return narrowgauge.quantize(x, "e4m3fn/row")
"""


@pytest.fixture
def kernels(folder, monkeypatch):
    (folder / "foreign_kernels.py").write_text(KERNELS)
    monkeypatch.delitem(sys.modules, "foreign_kernels", raising=False)


def test_check_of_a_right_quantizer_is_status_0(capsys, kernels):
    status, out, err = run(capsys, "check", "foreign_kernels:quantize", "--scheme", "e4m3fn/row")
    assert (status, err) == (0, "")
    assert "checks, ok" in out.splitlines()[0]


def test_check_of_a_wrong_quantizer_is_status_1_and_names_the_fault(capsys, kernels):
    words = ("check", "foreign_kernels:by_bfloat16", "--scheme", "e4m3fn/row")
    status, out, _ = run(capsys, *words)
    assert status == 1
    assert "double rounding through bfloat16" in out
    report = json.loads(run(capsys, *words, "--json")[1])
    assert report["ok"] is False
    assert report["failures"][0]["kind"] == "double rounding through bfloat16"


def test_check_holds_to_the_bits_if_asked(capsys, kernels):
    words = ("check", "foreign_kernels:quantize", "--scheme", "e4m3fn/row", "--contract", "narrowgauge")
    assert run(capsys, *words)[0] == 1
    assert run(capsys, "check", "foreign_kernels:ours", *words[2:], "--tensor")[0] == 0


def test_check_of_a_cast_states_its_overflow(capsys, kernels):
    words = ("check", "foreign_kernels:torch_cast", "--scheme", "e5m2:static=1", "--tensor")
    assert run(capsys, *words)[0] == 1
    assert run(capsys, *words, "--overflow", "nonsaturating", "--dtype", "float16")[0] == 0


def test_check_of_matrix_products(capsys, kernels):
    words = ("--gemm", "--values", "--scheme", "float32")
    status, out, _ = run(capsys, "check", "foreign_kernels:Kernels.matmul", *words)
    assert status == 0
    assert "foreign_kernels:Kernels.matmul" in out.splitlines()[0]
    status, out, _ = run(capsys, "check", "foreign_kernels:short", *words, "--skip", "long sums")
    assert status == 1
    assert "failed" in out
    assert "long sums" not in out


def test_diff_takes_a_function_of_the_user(capsys, kernels):
    words = ("--scheme", "e4m3fn/row", "--budget", "2000", "--ignore", "NaN to a number")
    assert run(capsys, "diff", "reference", "foreign_kernels:by_bfloat16", *words)[0] == 1


def test_progress_is_shown_on_a_terminal_and_nowhere_else(capsys, monkeypatch):
    from rich.console import Console

    from narrowgauge.commands import numerics_progress

    with numerics_progress.progress("sweep") as show:
        show(1, 2, "normal in int8")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(numerics_progress, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True))
    with numerics_progress.progress("sweep") as show:
        show(1, 2, "normal in int8")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1/2" in captured.err
