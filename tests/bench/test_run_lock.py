"""The lock is one holder's at a time, and comes back when its holder dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from narrowgauge.bench.run_lock import exclusive


def test_one_holder_at_a_time(tmp_path) -> None:
    path = tmp_path / "new" / "lock"
    with exclusive(path) as first, exclusive(path) as second:
        assert (first, second) == (True, False)
    with exclusive(path) as again:
        assert again


def test_an_error_in_the_block_frees_the_lock(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="inside"), exclusive(tmp_path / "lock"):
        raise RuntimeError("inside")
    with exclusive(tmp_path / "lock") as held:
        assert held


def test_waiting_ends_when_the_holder_is_done(tmp_path) -> None:
    order = []

    def waiter() -> None:
        with exclusive(tmp_path / "lock", wait=True) as held:
            order.append(("waiter", held))

    with exclusive(tmp_path / "lock"):
        thread = threading.Thread(target=waiter)
        thread.start()
        time.sleep(0.05)
        order.append(("holder", True))
    thread.join(timeout=10)
    assert order == [("holder", True), ("waiter", True)]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_process_leaves_no_lock(tmp_path) -> None:
    source = Path(sys.modules[exclusive.__module__].__file__)
    # Loaded from its file: the package would import torch, which takes seconds.
    code = (
        "import runpy, sys, time; from pathlib import Path\n"
        f"exclusive = runpy.run_path({str(source)!r})['exclusive']\n"
        "with exclusive(Path(sys.argv[1])) as held:\n"
        "    print(held, flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "True\n"
            with exclusive(path) as held:
                assert not held
        finally:
            child.send_signal(signal.SIGKILL)
        child.wait()
        with exclusive(path) as held:
            assert held
