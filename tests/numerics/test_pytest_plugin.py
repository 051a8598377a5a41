"""The pytest plugin in a foreign project: what it offers, that it fails when it should, and that it keeps aside."""

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy.random  # noqa: F401 - for the runs inside this process; see in_own_process
import pytest

from narrowgauge.numerics import hard_cases, pytest_plugin
from narrowgauge.numerics.pytest_plugin import DEFAULT_SCHEMES

pytest_plugins = ["pytester"]

SOURCES = Path(__file__).resolve().parents[2] / "src"
PLUGIN = "narrowgauge.numerics.pytest_plugin"

QUANTIZERS = """
import ml_dtypes
import numpy as np

def right(x):
    amax = np.abs(x).max(axis=-1, keepdims=True, initial=0)
    ok = np.isfinite(amax)
    scale = np.maximum(np.where(ok, amax, 1) / np.float32(448), np.float32(2**-126))
    scale = np.where(amax == 0, np.float32(1), scale)
    with np.errstate(invalid="ignore", over="ignore"):
        y = np.where(ok, x * (np.float32(1) / scale), np.float32(0))
    codes = y.clip(-448, 448).astype(ml_dtypes.float8_e4m3fn)
    return codes, np.where(ok, scale, np.float32(np.nan)).astype(np.float32)

def truncating(x):
    codes, scale = right(x)
    with np.errstate(invalid="ignore"):
        y = x / scale
    too_large = np.abs(codes.astype(np.float32)) > np.abs(y)
    bits = codes.view(np.uint8)
    return np.where(too_large & (bits & 127 > 0), bits - 1, bits).view(ml_dtypes.float8_e4m3fn), scale
"""


FOREIGN = {
    "quantizers.py": QUANTIZERS,
    "test_quantizer.py": """
        from quantizers import right, truncating

        def test_right(ng_check_quantizer):
            assert ng_check_quantizer(right, "e4m3fn/row").ok

        def test_wrong(ng_check_quantizer):
            ng_check_quantizer(truncating, "e4m3fn/row")

        def test_case(ng_hard_case, ng_assert_close_to_format):
            if ng_hard_case.size and ng_hard_case.ndim:
                ng_assert_close_to_format(right(ng_hard_case), ng_hard_case, "e4m3fn/row")

        def test_close_wrong(ng_rng, ng_assert_close_to_format):
            x = ng_rng.standard_normal((4, 32)).astype("float32")
            ng_assert_close_to_format(truncating(x), x, "e4m3fn/row", name="mine")
    """,
    "test_gemm.py": """
        import numpy as np

        def short(a, b):
            k = a.shape[1] // 16 * 16
            return (a[:, :k] @ b[:, :k].T).astype(np.float32)

        def exact(a, b):
            return (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32)

        def test_right(ng_check_gemm): ng_check_gemm(exact, "float32")
        def test_wrong(ng_check_gemm): ng_check_gemm(short, "float32")
    """,
    "test_training.py": """
        import numpy as np
        import torch

        class TwoThirds(torch.nn.Linear):
            def forward(self, x):
                return 2 / 3 * super().forward(x)

        class Exact:
            def store(self, m, v, seed): return m.copy(), v.copy()
            def load(self, state): return state

        class Negative(Exact):
            def store(self, m, v, seed): return m.copy(), -v

        SMALL = {"tracking_steps": {}, "elements": 4096, "seeds": 8, "writes": 8}

        def test_right_module(ng_check_module): ng_check_module(torch.nn.Linear(24, 16), {})
        def test_wrong_module(ng_check_module): ng_check_module(TwoThirds(24, 16), {})
        def test_right_optimizer(ng_check_optimizer): ng_check_optimizer(Exact(), **SMALL)
        def test_wrong_optimizer(ng_check_optimizer): ng_check_optimizer(Negative(), **SMALL)
    """,
}


def in_own_process(folder: Path, *words: str) -> str:
    """What pytest prints in `folder`, with the plugin. In this process it would load second copies of modules: pytester
    takes those that a run imported out again."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-W", "error", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints for the foreign project, whose tests run in a worker of xdist."""
    folder = tmp_path_factory.mktemp("foreign")
    for name, text in FOREIGN.items():
        (folder / name).write_text(textwrap.dedent(text))
    return in_own_process(folder, "-v", "-n", "1")


def outcome(printed: str, test: str) -> str:
    """PASSED or FAILED."""
    (found,) = set(re.findall(rf"\] (PASSED|FAILED) {re.escape(test)} *$", printed, re.MULTILINE))
    return found


def failure_of(printed: str, test: str) -> str:
    """The section of a failed test."""
    return re.split(r"\n_{3,}.*_{3,}\n", printed.split(f"_ {test} _", 1)[1])[0]


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """For tests that need nothing that this file has not imported."""
    pytester.syspathinsert()
    return pytester


def run(project: pytest.Pytester, *words: str) -> pytest.RunResult:
    return project.runpytest_inprocess("-p", PLUGIN, "-p", "no:cacheprovider", *words)


@pytest.fixture
def installed(project: pytest.Pytester) -> pytest.Pytester:
    """A project in whose environment a distribution names the plugin as its entry point."""
    metadata = project.mkdir("site") / "narrowgauge-99.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: narrowgauge\nVersion: 99\n")
    (metadata / "entry_points.txt").write_text(f"[pytest11]\nnarrowgauge = {PLUGIN}\n")
    project.syspathinsert(metadata.parent)
    return project


def test_the_entry_point_names_the_plugin():
    project = tomllib.loads((SOURCES.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"narrowgauge": PLUGIN}


@pytest.mark.parametrize("file", ["test_quantizer.py", "test_gemm.py"])
def test_check_tells_right_from_wrong(printed, file):
    assert outcome(printed, f"{file}::test_right") == "PASSED"
    assert outcome(printed, f"{file}::test_wrong") == "FAILED"


@pytest.mark.parametrize("kind", ["module", "optimizer"])
def test_check_of_training_tells_right_from_wrong(printed, kind):
    assert outcome(printed, f"test_training.py::test_right_{kind}") == "PASSED"
    assert outcome(printed, f"test_training.py::test_wrong_{kind}") == "FAILED"


def test_every_hard_case_is_a_test_of_its_own(printed):
    for name in hard_cases():
        assert outcome(printed, f"test_quantizer.py::test_case[{name}]") == "PASSED"


def test_failed_check_shows_its_report_at_the_line_that_called(printed):
    section = failure_of(printed, "test_wrong_module")
    assert re.search(r"^E +AssertionError: TwoThirds 16x24: \d+ checks, \d+ failures$", section, re.MULTILINE)
    assert re.search(r"^E +forward +failed$", section, re.MULTILINE)
    assert "pytest_plugin.py" not in printed
    assert "assertions.py" not in printed


def test_assertion_shows_its_message_at_the_line_that_called(printed):
    section = failure_of(printed, "test_close_wrong")
    assert re.search(r"^>.*ng_assert_close_to_format\(truncating", section, re.MULTILINE)
    assert re.search(r"^E +AssertionError: mine: \d+ of 128 elements are not what rounding to", section, re.MULTILINE)


def test_summary_has_a_line_for_each_failed_check_even_from_another_process(printed):
    summary = printed.split("narrowgauge: numerics checks that failed")[1].split("short test summary")[0]
    assert re.findall(r"^(test_\w+\.py::\w+: check_\w+) of", summary, re.MULTILINE) == [
        "test_gemm.py::test_wrong: check_gemm",
        "test_quantizer.py::test_wrong: check_quantizer",
        "test_training.py::test_wrong_module: check_module",
        "test_training.py::test_wrong_optimizer: check_optimizer",
    ]


def test_the_example_of_the_manual_runs_and_fails_as_the_manual_says(tmp_path):
    page = (SOURCES.parent / "docs" / "numerics.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n# test_my_kernels.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "test_my_kernels.py").write_text(example)
    wrong = example.replace("(x / scale).clamp", "(x / scale).bfloat16().clamp")
    (tmp_path / "wrong" / "test_my_kernels.py").write_text(wrong)
    printed = in_own_process(tmp_path, "--import-mode=importlib")
    assert "3 failed, 7 passed" in printed
    (line,) = (line for line in page.splitlines() if line.startswith("test_my_kernels.py::"))
    assert f"wrong/{line}" in printed.splitlines()


def test_the_python_of_the_manual_runs(tmp_path):
    page = (SOURCES.parent / "docs" / "numerics.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import numpy.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for text in ("sqnr_db", "21 checks, ok", "fp16:static=1.0: ", "laplace", "0.weight"):
        assert text in done.stdout


def test_hard_cases_are_new_in_every_test(project):
    project.makepyfile(
        """
        def test_all(ng_hard_cases):
            assert len(ng_hard_cases) > 20
            ng_hard_cases["ties"][0] = 7

        def test_all_again(ng_hard_cases):
            assert ng_hard_cases["ties"][0] != 7
        """
    )
    result = run(project)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*narrowgauge:*")


def test_schemes_come_from_the_marker_then_the_command_line_then_the_default(project):
    project.makepyfile(
        """
        import pytest

        def test_default(ng_scheme): pass

        @pytest.mark.ng_schemes("int8/row", "mxfp8")
        def test_marked(ng_scheme):
            assert ng_scheme in ("int8/row", "mxfp8_e4m3")

        @pytest.mark.parametrize("ng_scheme", ["nvfp4"])
        def test_own(ng_scheme):
            assert ng_scheme == "nvfp4"

        @pytest.mark.parametrize(("ng_scheme", "size"), [("nvfp4", 3)])
        def test_own_pair(ng_scheme, size):
            assert (ng_scheme, size) == ("nvfp4", 3)
        """
    )
    run(project, "--strict-markers").assert_outcomes(passed=len(DEFAULT_SCHEMES) + 4)
    result = run(project, "-v", "--ng-schemes", "e5m2, e5m2/row")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*test_default?e5m2?*", "*test_default?e5m2/row?*", "*test_marked?int8/row?*"])


def test_unknown_scheme_is_a_usage_error_that_names_the_nearest(project):
    project.makepyfile("def test_default(ng_scheme): pass")
    result = run(project, "--ng-schemes", "e4m3f/row")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*--ng-schemes: format: unknown name 'e4m3f'; nearest: e4m3fn*"])


def test_rng_starts_anew_in_every_test_and_follows_the_seed(project):
    project.makepyfile(
        """
        draws = []

        def test_one(ng_rng): draws.append(ng_rng.integers(1 << 30))
        def test_two(ng_rng): draws.append(ng_rng.integers(1 << 30))
        def test_equal(): assert draws[0] == draws[1]; print("drawn", draws[0])
        """
    )
    first, second = (run(project, "-s", "--ng-seed", seed) for seed in ("1", "2"))
    for result in (first, second):
        result.assert_outcomes(passed=3)
    drawn = [next(line for line in r.outlines if "drawn" in line) for r in (first, second)]
    assert drawn[0] != drawn[1]


def test_getfixturevalue_says_what_to_do_instead(project):
    project.makepyfile("def test_it(request): request.getfixturevalue('ng_scheme')")
    result = run(project)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*ng_scheme: make it an argument of the test*"])


def test_loading_imports_nothing_but_the_plugin_itself():
    code = (
        "import sys, pytest\n"
        f"sys.path.insert(0, {str(SOURCES)!r})\n"
        "before = set(sys.modules)\n"
        f"import {PLUGIN}\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parts = ["narrowgauge", "narrowgauge._lazy", "narrowgauge._version", "narrowgauge.numerics", PLUGIN]
    assert done.stdout.strip() == str(parts)


def test_installed_plugin_leaves_other_tests_alone_and_loads_no_numpy(installed):
    installed.makepyfile(
        """
        import sys

        def test_nothing_was_loaded():
            assert not {"numpy", "torch", "hypothesis"} & set(sys.modules)

        def test_theirs(pytestconfig):
            assert pytestconfig.pluginmanager.get_plugin("narrowgauge") is not None
        """
    )
    path = os.pathsep.join([str(installed.path / "site"), str(SOURCES)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:hypothesispytest", "-p", "no:cacheprovider"],
        cwd=installed.path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "narrowgauge:" not in done.stdout


@pytest.mark.parametrize(
    "words", [("-p", PLUGIN), ("-p", PLUGIN, "-p", PLUGIN), ("-p", "narrowgauge"), ()], ids=" ".join
)
@pytest.mark.parametrize("in_conftest", [False, True])
def test_being_registered_twice_does_no_harm(installed, words, in_conftest):
    if in_conftest:
        installed.makeconftest(f"pytest_plugins = [{PLUGIN!r}]")
    installed.makepyfile("def test_theirs(ng_rng): assert ng_rng is not None")
    installed.runpytest_inprocess(*words).assert_outcomes(passed=1)


def test_it_can_be_switched_off(installed):
    installed.makepyfile("def test_theirs(ng_rng): pass")
    result = installed.runpytest_inprocess("-p", "no:narrowgauge")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'ng_rng' not found*"])
    installed.runpytest_inprocess("-p", "no:narrowgauge", "-p", PLUGIN).assert_outcomes(passed=1)


def test_every_fixture_has_the_prefix():
    import _pytest.fixtures

    fixtures = [
        name for name, value in vars(pytest_plugin).items()
        if isinstance(value, _pytest.fixtures.FixtureFunctionDefinition)
    ]  # fmt: skip
    assert len(fixtures) == 9
    assert all(name.startswith("ng_") for name in fixtures)
