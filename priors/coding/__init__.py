"""Entropy coding of quantised weights: Exp-Golomb, Huffman and rANS bitstreams, and model files of them.

Source: "BackSlash: Rate Constrained Optimized Training of Large Language Models" (arXiv 2504.16968), section 3.
"""

from narrowgauge.priors.coding.coder import CODERS, Coder, coder, decode
from narrowgauge.priors.coding.exp_golomb import exp_golomb_lengths
from narrowgauge.priors.coding.exp_golomb_coder import ExpGolomb
from narrowgauge.priors.coding.huffman import huffman_lengths
from narrowgauge.priors.coding.huffman_coder import Huffman
from narrowgauge.priors.coding.model_file import CompressedModel, compress, describe_compressed, load_compressed
from narrowgauge.priors.coding.model_report import CompressionReport, TensorReport
from narrowgauge.priors.coding.rans_coder import Rans
from narrowgauge.priors.coding.record import Coded
from narrowgauge.priors.coding.signed import to_signed, to_unsigned

__all__ = [
    "CODERS",
    "Coded",
    "Coder",
    "CompressedModel",
    "CompressionReport",
    "ExpGolomb",
    "Huffman",
    "Rans",
    "TensorReport",
    "coder",
    "compress",
    "decode",
    "describe_compressed",
    "exp_golomb_lengths",
    "huffman_lengths",
    "load_compressed",
    "to_signed",
    "to_unsigned",
]
