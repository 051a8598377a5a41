"""A monitor sees the operands of a model in training, changes no bit of it, and goes on after an interruption."""

import json
import math
import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from narrowgauge.formats import quantize_reference
from narrowgauge.numerics import TensorMonitor, sqnr_db
from narrowgauge.numerics.monitors.report import mean_sqnr_db
from narrowgauge.numerics.monitors.rows import MonitorRow, read_rows, row_dict, row_from


class Net(nn.Module):
    """Linear layers with dropout, an operation in place, and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.relu(self.first(x), inplace=True)
        hidden = self.shared(nn.functional.dropout(self.shared(hidden), 0.3, self.training))
        return self.last(hidden.mul_(2.0))


def make() -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = Net()
    return net, torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)


def train(net: Net, optimizer: torch.optim.Optimizer, steps: range, monitor: TensorMonitor | None = None) -> None:
    for step in steps:
        torch.manual_seed(step)
        x = torch.randn(32, 8)
        optimizer.zero_grad()
        if monitor is None:
            net(x).square().mean().backward()
        else:
            with monitor.step(step):
                net(x).square().mean().backward()
        optimizer.step()


def bits(net: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def test_training_has_the_same_bits_with_and_without():
    plain, optimizer = make()
    train(plain, optimizer, range(7))
    state = torch.get_rng_state()
    watched, optimizer = make()
    monitor = TensorMonitor(["e4m3fn/row", "nvfp4+sr"], every=2).attach(watched)
    train(watched, optimizer, range(7), monitor)
    assert torch.equal(bits(plain), bits(watched))
    assert torch.equal(torch.get_rng_state(), state)
    assert {row.step for row in monitor.rows} == {0, 2, 4, 6}
    assert not any(module._forward_hooks or module._backward_hooks for module in watched.modules())


def test_rows_are_those_of_the_operands():
    net, _ = make()
    net.eval()
    monitor = TensorMonitor(["e4m3fn/row", "int8"], every=1).attach(net)
    x = torch.randn(32, 8)
    with monitor.step(0) as rows:
        y = net(x)
        y.sum().backward()
    assert rows == monitor.rows
    table = {(row.layer, row.role, row.scheme): row for row in rows}
    assert len(table) == len(rows) == 3 * 3 * 2
    for role, operand in (("weight", net.first.weight.detach()), ("activation", x)):
        row = table["first", role, "e4m3fn/row"]
        expected = quantize_reference(operand.numpy(), "e4m3fn/row").dequantize()
        assert row.sqnr_db == pytest.approx(sqnr_db(expected, operand), abs=1e-9)
        assert row.amax == float(operand.abs().max())
        assert row.rms == pytest.approx(float(operand.square().mean().sqrt()), rel=1e-5)
        assert row.amax_over_rms == pytest.approx(row.amax / row.rms)
    assert table["last", "gradient", "int8"].amax == table["last", "gradient", "int8"].rms == 1.0
    assert table["first", "weight", "int8"].bits == 8 + 32 / 128
    assert {"codes_used", "code_entropy_bits", "underflow", "overflow_clipped"} <= set(rows[0].metrics)


def test_only_steps_that_are_due_have_hooks():
    net, _ = make()
    monitor = TensorMonitor(["int8"], every=3, roles=("activation",)).attach(net)
    for step in range(7):
        with monitor.step(step) as rows:
            assert all(bool(module._forward_hooks) == (step % 3 == 0) for module in (net.first, net.last))
            net(torch.randn(2, 8))
        assert len(rows) == (3 if step % 3 == 0 else 0)
    net(torch.randn(2, 8))
    assert len(monitor.rows) == 9


def test_drift_and_delayed_misses_follow_the_observations():
    net = nn.Sequential(nn.Linear(1, 1))
    monitor = TensorMonitor(["e4m3fn"], every=1, roles=("activation",), history=2).attach(net)
    for step, amax in enumerate([1.0, 4.0, 2.0, 8.0, math.inf, 0.0, 16.0]):
        with monitor.step(step):
            net(torch.tensor([[amax]]))
    assert [row.scale_drift for row in monitor.rows] == [None, 2.0, -1.0, 2.0, math.inf, -math.inf, math.inf]
    # The amax before: 1; 1, 4; 4, 2; 2, 8; the infinity is not kept: 2, 8; 8, 0
    assert [row.delayed_miss for row in monitor.rows] == [None, 4.0, 0.5, 2.0, math.inf, 0.0, 2.0]


def test_a_step_that_fails_is_measured_and_leaves_no_hook():
    net, _ = make()
    monitor = TensorMonitor(["int8"], every=1).attach(net)

    def fails() -> None:
        with monitor.step(0):
            net(torch.full((2, 8), math.nan))
            raise FloatingPointError("loss is nan")

    with pytest.raises(FloatingPointError, match="loss is nan"):
        fails()
    activation = next(row for row in monitor.rows if (row.layer, row.role) == ("first", "activation"))
    assert math.isnan(activation.amax)
    assert math.isnan(activation.rms)
    assert not any(module._forward_hooks for module in net.modules())


def test_large_operands_are_sampled_and_their_amax_is_not():
    net = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(1000, 4)
    x[3, 1] = 99.0
    monitor = TensorMonitor(["e5m2"], every=1, roles=("activation",), sample=64).attach(net)
    with monitor.step(0) as rows:
        net(x)
    assert rows[0].amax == 99.0
    assert monitor.summaries["0", "activation"].info.sample == "16 of 1,000 rows"
    assert monitor.summaries["0", "activation"].amax < 10.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_types_are_seen(dtype):
    net = nn.Sequential(nn.Linear(4, 4)).to(dtype)
    monitor = TensorMonitor(["e5m2"], every=1).attach(net)
    with monitor.step(0) as rows:
        net(torch.randn(8, 4, dtype=dtype)).sum().backward()
    assert {row.role for row in rows} == {"weight", "activation", "gradient"}
    assert all(15.0 < row.sqnr_db <= math.inf for row in rows)


# Files


def test_the_file_has_every_row_as_strict_json(tmp_path):
    net, optimizer = make()
    monitor = TensorMonitor(["int8", "nvfp4"], every=2, path=tmp_path / "rows.jsonl").attach(net)
    train(net, optimizer, range(4), monitor)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(lines) == len(monitor.rows) == 2 * 9 * 2
    first = json.loads(lines[0], parse_constant=lambda constant: pytest.fail(constant))
    assert first["step"] == 0
    assert first["layer"] == "first"
    assert first["scale_drift"] is None
    assert first["amax_over_rms"] == pytest.approx(first["amax"] / first["rms"])
    assert read_rows(tmp_path / "rows.jsonl") == monitor.rows


def test_rows_that_are_not_finite_come_back_from_the_file():
    row = MonitorRow(
        3, "a", "weight", "int8", math.inf, math.nan, None, -math.inf, 8.0, {"sqnr_db": math.nan, "x": None}
    )
    back = row_from(json.loads(json.dumps(row_dict(row), allow_nan=False)))
    assert repr(back) == repr(row)


def test_a_resumed_run_goes_on_with_the_file_as_if_it_had_not_stopped(tmp_path):
    def monitor_at(name: str, net: Net) -> TensorMonitor:
        return TensorMonitor(["int8"], every=2, history=3, path=tmp_path / name).attach(net)

    whole_net, whole_optimizer = make()
    whole = monitor_at("whole.jsonl", whole_net)
    train(whole_net, whole_optimizer, range(10), whole)
    net, optimizer = make()
    train(net, optimizer, range(5), monitor_at("parts.jsonl", net))
    model, state = deepcopy((net.state_dict(), optimizer.state_dict()))
    train(net, optimizer, range(5, 7), monitor_at("parts.jsonl", net))  # step 6 is done and lost
    with (tmp_path / "parts.jsonl").open("a") as file:
        file.write('{"step": 6, "la')
    net, optimizer = make()
    net.load_state_dict(model)
    optimizer.load_state_dict(state)
    resumed = monitor_at("parts.jsonl", net)
    resumed.start(5)
    train(net, optimizer, range(5, 10), resumed)
    assert resumed.rows == whole.rows
    assert (tmp_path / "parts.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert resumed.report() == whole.report()


def test_a_run_from_the_start_begins_a_new_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("what was here before\n")
    net, optimizer = make()
    train(net, optimizer, range(1), TensorMonitor(["int8"], path=path).attach(net))
    assert len(read_rows(path)) == 9


def test_a_file_that_is_no_monitors_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    monitor = TensorMonitor(["int8"], path=path).attach(make()[0])
    with pytest.raises(ValueError, match=r"path: line 1 of .*notes.txt is not a monitor's; give another path"):
        monitor.start(5)
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n'


# Reports


def test_the_report_has_every_operand_and_scheme_and_its_curves():
    net, optimizer = make()
    monitor = TensorMonitor(["int8", "nvfp4", "mxfp8/row"], every=2, target_db=20.0).attach(net)
    train(net, optimizer, range(5), monitor)
    found = monitor.report("My run")
    assert len(found.rows) == 9 * 2
    assert {"first.weight", "shared.activation", "last.gradient"} <= {tensor.info.name for tensor in found.tensors}
    assert [entry.scheme for entry in found.skipped] == ["mxfp8/row"]
    assert found.target_db == 20.0
    assert [series.title.split(":")[0] for series in found.series] == ["SQNR over the steps"] * 3 + ["Delayed scaling"]
    assert all(series.x == (0.0, 2.0, 4.0) for series in found.series)
    assert any("3 steps were observed, 0 to 4" in line for line in found.summary())
    html = found.html()
    assert "My run" in html
    assert "Delayed scaling" in html
    steps = [row for row in monitor.rows if (row.layer, row.role, row.scheme) == ("first", "gradient", "int8")]
    mean = found.row("first.gradient", "int8")
    assert mean.sqnr_db == pytest.approx(mean_sqnr_db(row.sqnr_db for row in steps))
    assert mean.metric("gain") == pytest.approx(np.mean([row.metrics["gain"] for row in steps]))


def test_the_report_names_a_role_that_was_never_seen():
    net, _ = make()
    monitor = TensorMonitor(["int8"], every=1).attach(net)
    with monitor.step(0), torch.no_grad():
        net(torch.randn(2, 8))
    assert "No gradient was seen: hooks do not reach it." in monitor.report().notes


def test_the_mean_over_steps_is_that_of_the_noise():
    assert mean_sqnr_db([20.0, 20.0]) == pytest.approx(20.0)
    assert mean_sqnr_db([10.0, math.inf]) == pytest.approx(10.0 + 10 * math.log10(2))
    assert mean_sqnr_db([math.inf]) == math.inf
    assert mean_sqnr_db([30.0, -math.inf]) == -math.inf
    assert math.isnan(mean_sqnr_db([30.0, math.nan]))


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every: got 0, accepted: 1 or more"),
        ({"history": 0}, "history: got 0, accepted: 1 or more"),
        ({"sample": -1}, "sample: got -1, accepted: 1 or more"),
        ({"roles": ("bias",)}, "roles: got ('bias',), accepted: one or more of weight, activation, gradient"),
        ({"schemes": ["e4m3"], "metrics": ["snr"]}, "metrics: got 'snr'"),
        ({"schemes": ["mxfp8/row"]}, "schemes: none is left to measure"),
        ({"schemes": ["e4m3fm"]}, "format: unknown name 'e4m3fm'"),
    ],
)
def test_mistakes_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TensorMonitor(**arguments)


def test_a_monitor_without_a_model_or_rows_says_so():
    with pytest.raises(RuntimeError, match=r"call attach\(model\) first"), TensorMonitor(["int8"]).step(0):
        pass
    with pytest.raises(ValueError, match="monitor: nothing was observed yet"):
        TensorMonitor(["int8"]).report()
    with pytest.raises(ValueError, match=r"model: no torch.nn.Linear"):
        TensorMonitor(["int8"]).attach(nn.ReLU())
