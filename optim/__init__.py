"""Optimizers whose states are kept in few bits: state codecs × update rules."""

from __future__ import annotations

from narrowgauge.optim.adafactor import Adafactor
from narrowgauge.optim.adagrad import Adagrad
from narrowgauge.optim.adam import Adam
from narrowgauge.optim.adam_mini import AdamMini
from narrowgauge.optim.adamw import AdamW
from narrowgauge.optim.base import CompressedOptimizer
from narrowgauge.optim.codec import StateOption
from narrowgauge.optim.files import load_optimizer, save_optimizer
from narrowgauge.optim.galore import GaLore
from narrowgauge.optim.lamb import LAMB
from narrowgauge.optim.lion import Lion
from narrowgauge.optim.madam import Madam
from narrowgauge.optim.memory import StateBytes, StaticBytes
from narrowgauge.optim.muon import Muon
from narrowgauge.optim.parameter_groups import galore_groups, muon_groups, split_matrices
from narrowgauge.optim.release import release_gradients
from narrowgauge.optim.rmsprop import RMSprop
from narrowgauge.optim.saved import convert_state
from narrowgauge.optim.sgd import SGD
from narrowgauge.optim.shampoo import Shampoo

__all__ = [
    "LAMB",
    "SGD",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamMini",
    "AdamW",
    "CompressedOptimizer",
    "GaLore",
    "Lion",
    "Madam",
    "Muon",
    "RMSprop",
    "Shampoo",
    "StateBytes",
    "StateOption",
    "StaticBytes",
    "convert_state",
    "galore_groups",
    "load_optimizer",
    "muon_groups",
    "release_gradients",
    "save_optimizer",
    "split_matrices",
]
