"""The plugin keeps the tests that use the device, and each of their results at once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from narrowgauge.bench import device_tests


def an_item(name: str, *fixtures: str, gpu: bool = False) -> SimpleNamespace:
    return SimpleNamespace(nodeid=name, fixturenames=fixtures, get_closest_marker=lambda mark: mark if gpu else None)


def test_tests_that_say_nothing_about_a_device_are_left_out() -> None:
    dropped: list[SimpleNamespace] = []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items)))
    with_device, marked, other = an_item("a", "rng", "device"), an_item("b", gpu=True), an_item("c", "rng")
    first = an_item("test_conformance.py::d", "device")
    items = [with_device, other, marked, first]
    device_tests.pytest_collection_modifyitems(config, items)
    assert items == [first, with_device, marked]
    assert dropped == [other]


def a_report(name: str, outcome: str, when: str = "call", text: str = "") -> SimpleNamespace:
    return SimpleNamespace(nodeid=name, outcome=outcome, when=when, duration=0.25, longrepr=text)


def test_results_are_kept_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    keeper = device_tests._Keeper(path)
    for report in (
        a_report("a", "passed", "setup"), a_report("a", "passed"), a_report("a", "passed", "teardown"),
        a_report("b", "failed", text="x" * 5000 + "assert 1 == 2"), a_report("c", "failed", "setup", "no fixture"),
        a_report("d", "skipped", "setup"),
    ):  # fmt: skip
        keeper.pytest_runtest_logreport(report)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["test"] for line in lines] == ["a", "b", "c", "d"]
    found = device_tests.summarize(path)
    assert found["counts"] == {"passed": 1, "failed": 2, "skipped": 1}
    assert [line["test"] for line in found["failed"]] == ["b", "c"]
    assert found["failed"][0]["message"].endswith("assert 1 == 2")
    assert len(found["failed"][0]["message"]) == device_tests.MESSAGE_CHARACTERS


def test_a_line_that_was_cut_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    path.write_text('{"test": "a", "outcome": "passed", "seconds": 1.0}\n{"test": "b", "outc')
    assert device_tests.summarize(path)["counts"] == {"passed": 1, "failed": 0, "skipped": 0}
    assert device_tests.summarize(tmp_path / "absent")["counts"] == {"passed": 0, "failed": 0, "skipped": 0}


def test_only_the_process_that_hears_of_all_tests_keeps_them(tmp_path: Path) -> None:
    registered = []
    manager = SimpleNamespace(register=lambda plugin, name: registered.append(plugin))
    config = SimpleNamespace(getoption=lambda name: str(tmp_path / "kept"), pluginmanager=manager)
    device_tests.pytest_configure(config)
    assert [plugin.path for plugin in registered] == [tmp_path / "kept"]
    device_tests.pytest_configure(SimpleNamespace(**vars(config), workerinput={}))
    assert len(registered) == 1
