"""The thin training loop: a tiny model, text that is always there, methods as plug-ins, exact checkpoints."""

from narrowgauge.train.bpe import Bpe, token_corpus
from narrowgauge.train.checkpoint import load_checkpoint, save_checkpoint
from narrowgauge.train.claims import NOT_SHOWN, OPPOSITE, SHOWN, Claim, Judged, judge, verdict
from narrowgauge.train.classifier import ConvNet, MLPClassifier
from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.corpus import BatchCorpus, Corpus
from narrowgauge.train.data import Batch, BatchSource, BatchStream, ByteCorpus
from narrowgauge.train.distill import Distillation, distillation_loss, kl_divergence
from narrowgauge.train.distributed import is_first
from narrowgauge.train.documents import Document, document_corpus, read_documents
from narrowgauge.train.domains import DOMAINS, domain, domain_documents
from narrowgauge.train.early_stopping import EarlyStopping
from narrowgauge.train.effect import Effect, paired_effect
from narrowgauge.train.encoder import Encoder
from narrowgauge.train.experiment import Context, Experiment, tiny_llama
from narrowgauge.train.find_checkpoint import FoundCheckpoint, find_checkpoint
from narrowgauge.train.fisher import anchor_of, decayed_sum, diagonal_fisher, ewc_penalty
from narrowgauge.train.generate import Rollouts, generate, sample
from narrowgauge.train.kv_cache import KVCache
from narrowgauge.train.loggers import ConsoleLogger, CsvLogger, History, JsonlLogger, Logger, Loggers, TensorBoardLogger
from narrowgauge.train.lora import LoRA, merged_lora
from narrowgauge.train.loss import cross_entropy
from narrowgauge.train.masking import mask_tokens
from narrowgauge.train.merge import average, interpolate, slerp
from narrowgauge.train.method import Method
from narrowgauge.train.mixture import MixtureCorpus, MixtureStream
from narrowgauge.train.model import Llama
from narrowgauge.train.moe import MoE, MoEConfig, MoELlama, Routing, expert_tensors, moe_layers, set_expert_tensors
from narrowgauge.train.moe_loss import RouterLoss
from narrowgauge.train.on_grid import OnGrid
from narrowgauge.train.optimizers import default_groups
from narrowgauge.train.packing import PackedStream, segment_mask
from narrowgauge.train.phases import Phase, PhasesResult, run_phases
from narrowgauge.train.registry import (
    METHODS,
    Procedure,
    Published,
    PublishedMethod,
    get_method,
    get_published,
    register,
)
from narrowgauge.train.schedule import Constant, Schedule, WarmupCosine
from narrowgauge.train.seq2seq import EncoderDecoder, teacher_forcing
from narrowgauge.train.tradeoff import TradeOff, mean_loss, second_at
from narrowgauge.train.trainer import Trainer

__all__ = [
    "DOMAINS",
    "METHODS",
    "NOT_SHOWN",
    "OPPOSITE",
    "SHOWN",
    "Batch",
    "BatchCorpus",
    "BatchSource",
    "BatchStream",
    "Bpe",
    "ByteCorpus",
    "Claim",
    "ConsoleLogger",
    "Constant",
    "Context",
    "ConvNet",
    "Corpus",
    "CsvLogger",
    "Distillation",
    "Document",
    "EarlyStopping",
    "Effect",
    "Encoder",
    "EncoderDecoder",
    "Experiment",
    "FoundCheckpoint",
    "History",
    "JsonlLogger",
    "Judged",
    "KVCache",
    "Llama",
    "LlamaConfig",
    "LoRA",
    "Logger",
    "Loggers",
    "MLPClassifier",
    "Method",
    "MixtureCorpus",
    "MixtureStream",
    "MoE",
    "MoEConfig",
    "MoELlama",
    "OnGrid",
    "PackedStream",
    "Phase",
    "PhasesResult",
    "Procedure",
    "Published",
    "PublishedMethod",
    "Rollouts",
    "RouterLoss",
    "Routing",
    "Schedule",
    "TensorBoardLogger",
    "TradeOff",
    "Trainer",
    "WarmupCosine",
    "anchor_of",
    "average",
    "cross_entropy",
    "decayed_sum",
    "default_groups",
    "diagonal_fisher",
    "distillation_loss",
    "document_corpus",
    "domain",
    "domain_documents",
    "ewc_penalty",
    "expert_tensors",
    "find_checkpoint",
    "generate",
    "get_method",
    "get_published",
    "interpolate",
    "is_first",
    "judge",
    "kl_divergence",
    "load_checkpoint",
    "mask_tokens",
    "mean_loss",
    "merged_lora",
    "moe_layers",
    "paired_effect",
    "read_documents",
    "register",
    "run_phases",
    "sample",
    "save_checkpoint",
    "second_at",
    "segment_mask",
    "set_expert_tensors",
    "slerp",
    "teacher_forcing",
    "tiny_llama",
    "token_corpus",
    "verdict",
]
