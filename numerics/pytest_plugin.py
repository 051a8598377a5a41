"""The harness as a pytest plugin, for projects that have narrowgauge installed: fixtures, all named `ng_…`.

    ng_rng                      numpy generator, from --ng-seed
    ng_hard_cases               name → float32 array of every hard case
    ng_hard_case                one test for each of them
    ng_scheme                   one test for each scheme of @pytest.mark.ng_schemes(…), else of --ng-schemes
    ng_check_quantizer, ng_check_gemm, ng_check_module, ng_check_optimizer
                                the checks of `narrowgauge.numerics`; they fail the test with their report
    ng_assert_close_to_format   `narrowgauge.numerics.assert_close_to_format`

A test that asks for none of these is not touched, and `-p no:narrowgauge` switches the plugin off. Every pytest run of
an environment imports it, hence it imports nothing: numpy comes with the first fixture, torch with the code under test.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from narrowgauge.numerics import CheckReport

DEFAULT_SCHEMES = ("e4m3fn", "e4m3fn/row", "e4m3fn/1x128", "e5m2/row", "int8/row", "mxfp8", "mxfp4", "nvfp4")
ENTRY_POINT = "narrowgauge"
PROPERTY = "narrowgauge"
"""Under which a failed check stands among the user properties of a test's report; they travel between processes."""


def pytest_plugin_registered(plugin: object, plugin_name: str, manager: pytest.PytestPluginManager) -> None:
    """Makes a second registration, by entry point and by `-p` or `pytest_plugins`, a matter of no consequence: pytest
    passes over the other name of the module instead of stopping at it."""
    if plugin is sys.modules[__name__]:
        for other in {ENTRY_POINT, __name__} - {plugin_name}:
            if not manager.is_blocked(other):
                manager.set_blocked(other)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("narrowgauge", "low-precision numerics (narrowgauge)")
    group.addoption(
        "--ng-schemes",
        metavar="A,B",
        help=f"schemes of the ng_scheme fixture where a test names none (default: {','.join(DEFAULT_SCHEMES)})",
    )
    group.addoption("--ng-seed", type=int, default=0, metavar="N", help="seed of ng_rng (default: %(default)s)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ng_schemes(*schemes): the quantisation schemes that ng_scheme goes through")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ng_scheme" in metafunc.fixturenames and not _is_parametrized(metafunc, "ng_scheme"):
        metafunc.parametrize("ng_scheme", _schemes(metafunc), indirect=True)
    if "ng_hard_case" in metafunc.fixturenames and not _is_parametrized(metafunc, "ng_hard_case"):
        from narrowgauge.numerics import hard_cases

        metafunc.parametrize("ng_hard_case", list(hard_cases()), indirect=True)


def _is_parametrized(metafunc: pytest.Metafunc, name: str) -> bool:
    """Whether the test's own `@pytest.mark.parametrize` sets the argument."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
        if name in (names.replace(",", " ").split() if isinstance(names, str) else names):
            return True
    return False


def _schemes(metafunc: pytest.Metafunc) -> list[str]:
    """The marker's schemes, else the command line's, else the default ones. UsageError for what is no scheme."""
    from narrowgauge.formats import parse

    mark = metafunc.definition.get_closest_marker("ng_schemes")
    given = metafunc.config.getoption("--ng-schemes")
    if mark is not None:
        schemes, source = [str(scheme) for scheme in mark.args], "@pytest.mark.ng_schemes"
    else:
        schemes, source = given.split(",") if given else list(DEFAULT_SCHEMES), "--ng-schemes"
    try:
        return [str(parse(scheme.strip())) for scheme in schemes]
    except ValueError as error:
        raise pytest.UsageError(f"{source}: {error}") from error


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for every check that failed a test; nothing otherwise."""
    found = [
        (report.nodeid, str(value))
        for report in terminalreporter.getreports("failed")
        for key, value in report.user_properties
        if key == PROPERTY
    ]
    if found:
        terminalreporter.section("narrowgauge: numerics checks that failed", sep="=")
        for nodeid, text in found:
            terminalreporter.write_line(f"{nodeid}: {text}")


@pytest.fixture
def ng_rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A numpy generator that starts at the seed of --ng-seed in every test."""
    import numpy as np

    return np.random.default_rng(request.config.getoption("--ng-seed"))


@pytest.fixture
def ng_hard_cases() -> dict[str, NDArray[np.float32]]:
    """Name → float32 array that quantizers get wrong (`narrowgauge.numerics.hard_cases`)."""
    from narrowgauge.numerics import hard_cases

    return dict(hard_cases())


@pytest.fixture
def ng_hard_case(request: pytest.FixtureRequest, ng_hard_cases: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """One hard case, float32; a test that takes it runs once for each."""
    return ng_hard_cases[_parameter(request)]


@pytest.fixture
def ng_scheme(request: pytest.FixtureRequest) -> str:
    """One scheme as text, such as "e4m3fn/row"; a test that takes it runs once for each."""
    return _parameter(request)


def _parameter(request: pytest.FixtureRequest) -> str:
    if not hasattr(request, "param"):
        name = request.fixturename
        raise pytest.UsageError(f"{name}: make it an argument of the test; getfixturevalue comes too late to repeat it")
    return str(request.param)


@pytest.fixture
def ng_check_quantizer(request: pytest.FixtureRequest) -> Callable[..., CheckReport]:
    """`narrowgauge.numerics.check_quantizer`, failing the test with what it found; returns the report otherwise."""
    from narrowgauge.numerics import check_quantizer

    return _failing(check_quantizer, request)


@pytest.fixture
def ng_check_gemm(request: pytest.FixtureRequest) -> Callable[..., CheckReport]:
    """`narrowgauge.numerics.check_gemm`, failing the test with what it found; returns the report otherwise."""
    from narrowgauge.numerics import check_gemm

    return _failing(check_gemm, request)


@pytest.fixture
def ng_check_module(request: pytest.FixtureRequest) -> Callable[..., CheckReport]:
    """`narrowgauge.numerics.check_module`, failing the test with what it found; returns the report otherwise."""
    from narrowgauge.numerics import check_module

    return _failing(check_module, request)


@pytest.fixture
def ng_check_optimizer(request: pytest.FixtureRequest) -> Callable[..., CheckReport]:
    """`narrowgauge.numerics.check_optimizer`, failing the test with what it found; returns the report otherwise."""
    from narrowgauge.numerics import check_optimizer

    return _failing(check_optimizer, request)


@pytest.fixture
def ng_assert_close_to_format() -> Callable[..., None]:
    """`narrowgauge.numerics.assert_close_to_format`."""
    from narrowgauge.numerics import assert_close_to_format

    return assert_close_to_format


def _failing(check: Callable[..., CheckReport], request: pytest.FixtureRequest) -> Callable[..., CheckReport]:
    """`check` with AssertionError where its report is bad; the report's gist goes to the summary of the run."""

    @functools.wraps(check)
    def checked(*args: Any, **options: Any) -> CheckReport:
        __tracebackhide__ = True
        report = check(*args, **options)
        if not report.ok:
            kinds = ", ".join(report.kinds)
            request.node.user_properties.append((PROPERTY, f"{check.__name__} of {report.subject}: {kinds}"))
            raise AssertionError(report.table())
        return report

    return checked
