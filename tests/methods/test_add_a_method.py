"""docs/add-a-method.md holds what it says: one file of at most 40 lines, and the method is there."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.split("```python\n")[1].split("```")[0]

TRY = """
import sys

from narrowgauge.cli import main

main(["methods", "list"])
main(["methods", "show", "sign_descent"])
sys.exit(main(["methods", "check", "sign_descent", "--jobs", "1", "--scale", "0.04", "--recipe", "fp8_row"]))
"""


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.splitlines()) <= 40


def test_a_file_in_another_package_is_listed_shown_and_checked(tmp_path: Path) -> None:
    (tmp_path / "sign_descent.py").write_text(EXAMPLE, encoding="utf-8")
    installed = tmp_path / "other-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text("[narrowgauge.methods]\nsign = sign_descent\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", TRY], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert "use only the sign of each gradient" in done.stdout
    assert "hooks: gradient" in done.stdout
    assert "sign_descent, `fp8_row`, moments `fp32`, 3 seeds: " in done.stdout
