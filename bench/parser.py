"""A command line whose mistakes take one line each."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn


class OneLineParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` without the usage in front of an error, and without abbreviated flags.

    name: what an error begins with.
    """

    def __init__(self, name: str, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        self.name = name

    def error(self, message: str) -> NoReturn:
        """One line and exit status 2."""
        self.exit(2, f"{self.name}: {message}; see {self.prog} --help\n")
