"""All scenarios by name; they enter themselves when their modules are imported."""

from narrowgauge.methods.rules import duties, games, safety
from narrowgauge.methods.rules.scenario import SCENARIOS as SCENARIOS

MODULES = (safety, duties, games)
