"""`python -m narrowgauge …` is the `narrowgauge` command."""

import sys

from narrowgauge.cli import main

if __name__ == "__main__":
    sys.exit(main())
