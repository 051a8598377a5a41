import pytest
import torch
from torch import nn

from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.decoding import CachedDecoder, FullDecoder, device_of, eval_mode

CONFIG = LlamaConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=40)


@torch.no_grad()
def test_both_decoders_have_the_same_logits_at_every_token() -> None:
    model = Llama(CONFIG, seed=1)
    prompts = [[5, 6, 7], list(range(100, 117)), [9]]
    decoders = [kind(model, prompts, 6) for kind in (CachedDecoder, FullDecoder)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        cached, full = (decoder.logits() for decoder in decoders)
        torch.testing.assert_close(cached, full, rtol=1e-4, atol=1e-5)
        tokens = torch.randint(0, 256, (3,), generator=generator)
        for decoder in decoders:
            decoder.append(tokens)


def test_eval_mode_gives_modes_back_after_an_error_too() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).train()
    model[0].eval()
    modes = []

    def fails() -> None:
        modes.extend(module.training for module in model.modules())
        raise KeyError

    with pytest.raises(KeyError), eval_mode(model):
        fails()
    assert modes == [False, False, False]
    assert [module.training for module in model.modules()] == [True, False, True]


def test_the_device_of_a_model_without_parameters_is_that_of_its_buffers_or_the_cpu() -> None:
    assert device_of(nn.Identity()) == torch.device("cpu")
    model = nn.Identity()
    model.register_buffer("table", torch.empty(1, device="meta"))
    assert device_of(model) == torch.device("meta")
