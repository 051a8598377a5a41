"""The thin training loop: a tiny model, text that is always there, methods as plug-ins, exact checkpoints."""

from narrowgauge.train.checkpoint import load_checkpoint, save_checkpoint
from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.data import Batch, BatchSource, BatchStream, ByteCorpus
from narrowgauge.train.effect import Effect, paired_effect
from narrowgauge.train.loggers import ConsoleLogger, History, JsonlLogger, Logger, Loggers
from narrowgauge.train.loss import cross_entropy
from narrowgauge.train.method import METHODS, Method, PublishedMethod, get_method, register
from narrowgauge.train.model import Llama
from narrowgauge.train.on_grid import OnGrid
from narrowgauge.train.optimizers import default_groups
from narrowgauge.train.schedule import Constant, Schedule, WarmupCosine
from narrowgauge.train.trainer import Trainer

__all__ = [
    "METHODS",
    "Batch",
    "BatchSource",
    "BatchStream",
    "ByteCorpus",
    "ConsoleLogger",
    "Constant",
    "Effect",
    "History",
    "JsonlLogger",
    "Llama",
    "LlamaConfig",
    "Logger",
    "Loggers",
    "Method",
    "OnGrid",
    "PublishedMethod",
    "Schedule",
    "Trainer",
    "WarmupCosine",
    "cross_entropy",
    "default_groups",
    "get_method",
    "load_checkpoint",
    "paired_effect",
    "register",
    "save_checkpoint",
]
