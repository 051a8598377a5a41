from narrowgauge.methods.multilevel import matrix_weights, training_flops
from narrowgauge.train import Llama, LlamaConfig

CONFIG = LlamaConfig(dim=32, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=16)


def test_matrix_weights_are_those_of_the_model_without_look_ups_and_vectors() -> None:
    model = Llama(CONFIG)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and name != "embed_tokens.weight")
    assert matrix_weights(CONFIG) == matrices
    assert training_flops(CONFIG, 8) == 6 * matrices + 3 * 2 * (2 * 8 * 32) * 4
