import numpy as np
import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.data import Batch
from narrowgauge.train.fisher import anchor_of, decayed_sum, diagonal_fisher, ewc_penalty

TINY = LlamaConfig(dim=8, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=16, max_seq_len=8)


class Softmax(nn.Module):
    """Logits of the next token are a row of a table: its Fisher information has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table[input_ids]


def batch(ids: list[list[int]], labels: list[list[int]]) -> Batch:
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


ROWS = batch([[0, 1, 0], [2, 2, 1], [1, 1, 1]], [[3, 0, 1], [2, -100, 1], [-100, -100, -100]])


def test_the_empirical_fisher_is_the_mean_squared_gradient_of_rows() -> None:
    model = Softmax()
    table = model.table.detach().double().numpy()
    p = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    total = np.zeros((3, 4))
    for ids, labels in zip(ROWS["input_ids"].tolist()[:2], ROWS["labels"].tolist()[:2], strict=True):
        gradient = np.zeros((3, 4))
        for token, label in zip(ids, labels, strict=True):
            if label >= 0:
                gradient[token] += np.eye(4)[label] - p[token]
        total += gradient**2
    fisher = diagonal_fisher(model, [ROWS])
    np.testing.assert_allclose(fisher["table"].numpy(), total / 2, rtol=1e-5)
    assert fisher["unused"].tolist() == [0, 0]
    assert set(fisher) == {"table", "unused"}


def test_the_true_fisher_is_the_variance_of_the_model_itself() -> None:
    model = Softmax()
    p = model.table.detach().softmax(-1)
    # Token 0 twice in a row of three labelled positions, token 1 once: squares of positions add up.
    expected = torch.tensor([2.0, 1.0, 0.0])[:, None] * p * (1 - p)
    data = batch([[0, 1, 0]], [[3, 0, 1]])
    generator = torch.Generator().manual_seed(0)
    fisher = diagonal_fisher(model, [data], kind="true", samples=2000, generator=generator)
    torch.testing.assert_close(fisher["table"], expected, rtol=0.2, atol=5e-3)
    # It does not depend on the labels' values.
    other = batch([[0, 1, 0]], [[1, 1, 1]])
    again = diagonal_fisher(model, [other], kind="true", samples=50, generator=torch.Generator().manual_seed(1))
    same = diagonal_fisher(model, [data], kind="true", samples=50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(again, same, rtol=0, atol=0)


def test_rows_are_squared_one_by_one() -> None:
    model = Llama(TINY, seed=0)
    ids = torch.randint(0, 256, (4, 8), generator=torch.Generator().manual_seed(0))
    whole = {"input_ids": ids, "labels": ids.roll(-1, 1)}
    halves = [{name: tensor[part] for name, tensor in whole.items()} for part in (slice(0, 1), slice(1, 4))]
    model.train()
    fisher = diagonal_fisher(model, [whole])
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(diagonal_fisher(model, halves), fisher)
    assert all(bool((value >= 0).all()) for value in fisher.values())
    assert fisher["embed_tokens.weight"][sorted(set(range(256)) - set(ids.flatten().tolist()))].abs().max() == 0


def test_what_fisher_cannot_do_is_refused() -> None:
    model = Softmax()
    with pytest.raises(ValueError, match="generator: kind='true'"):
        diagonal_fisher(model, [ROWS], kind="true")
    with pytest.raises(ValueError, match="kind: expected empirical or true"):
        diagonal_fisher(model, [ROWS], kind="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples: expected"):
        diagonal_fisher(model, [ROWS], samples=2)
    with pytest.raises(ValueError, match="batches: no row has a label"):
        diagonal_fisher(model, [batch([[0]], [[-100]])])


def test_the_penalty_is_0_at_the_anchor_and_grows_with_the_square() -> None:
    model = Softmax()
    fisher, anchor = diagonal_fisher(model, [ROWS]), anchor_of(model)
    still = ewc_penalty(model, fisher, anchor, strength=10.0)
    still.backward()
    assert still.item() == 0
    assert model.table.grad is not None
    assert model.table.grad.abs().max() == 0
    with torch.no_grad():
        model.table += 0.5
        model.unused += 3.0  # free: nothing depended on it
    model.table.grad = None
    moved = ewc_penalty(model, fisher, anchor, strength=10.0)
    moved.backward()
    assert moved.item() == pytest.approx(10.0 / 2 * 0.25 * fisher["table"].sum().item(), rel=1e-5)
    torch.testing.assert_close(model.table.grad, 10.0 * fisher["table"] * 0.5)


def test_the_penalty_refuses_names_it_does_not_know() -> None:
    model = Softmax()
    anchor = anchor_of(model)
    with pytest.raises(ValueError, match="fisher: 'tabel' is not in the model"):
        ewc_penalty(model, {"tabel": torch.ones(3, 4)}, anchor, 1.0)
    with pytest.raises(ValueError, match="strength: expected"):
        ewc_penalty(model, {"table": torch.ones(3, 4)}, anchor, -1.0)
    with pytest.raises(ValueError, match="fisher: expected at least one"):
        ewc_penalty(model, {}, anchor, 1.0)


def test_the_anchor_is_a_copy() -> None:
    model = Softmax()
    anchor = anchor_of(model)
    with torch.no_grad():
        model.table.zero_()
    assert anchor["table"].abs().max() > 0
    assert set(anchor) == {"table", "unused"}


def test_a_running_fisher_forgets_at_its_decay() -> None:
    old, new = {"w": torch.tensor([4.0])}, {"w": torch.tensor([1.0])}
    assert decayed_sum(old, new, 0.5)["w"].item() == 3.0
    with pytest.raises(ValueError, match="decay: expected"):
        decayed_sum(old, new, 1.5)
    with pytest.raises(ValueError, match="new: expected"):
        decayed_sum(old, {}, 0.5)
