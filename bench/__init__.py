"""Measurements: a timer, a record of the machine, and suites that check an operator before they time it."""

from narrowgauge.bench.machine import Machine, describe_machine
from narrowgauge.bench.report import Row, SuiteResult, write_result
from narrowgauge.bench.timer import Timing, time_interleaved

__all__ = ["Machine", "Row", "SuiteResult", "Timing", "describe_machine", "time_interleaved", "write_result"]
