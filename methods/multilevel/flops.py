"""What training a token costs, so that models of different size can be compared at equal cost.

A matrix of ``n`` weights costs ``2 n`` operations a token forward, and twice that backward. Attention over ``T``
positions adds two products of ``T × width of all heads`` for each token, counted without the causal half that some
implementations leave out. The head to the vocabulary is counted: it does not shrink with the number of layers.
"""

from narrowgauge.train import LlamaConfig


def matrix_weights(config: LlamaConfig) -> int:
    """Weights of all matrices that a token is multiplied with; the embedding is a look-up."""
    kv_dim = config.num_kv_heads * config.head_dim
    layer = 2 * config.dim * (config.dim + kv_dim) + 3 * config.dim * config.ffn_dim
    return config.num_layers * layer + config.dim * config.vocab_size


def training_flops(config: LlamaConfig, seq_len: int) -> int:
    """Floating-point operations of training on one token in a sequence of ``seq_len``: forward and backward."""
    attention = 4 * seq_len * config.dim * config.num_layers
    return 3 * (2 * matrix_weights(config) + attention)
