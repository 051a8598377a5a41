"""What a model is worth at a stage of the pipeline of priors: its file, bits per parameter, loss and speed.

Every stage is written to a file, read back, and measured as it was read; what comes back must be, bit for bit, what the
form of the file says.

    fp32, fp16   the weights in that dtype
    e4m3         codes and scales of `e4m3fn/row`, not coded further
    step         round(2^n · θ) with an Exp-Golomb code of the best order of each matrix
    rf8          RF8 codes with bias n, coded in the same way: what lies under 0.375 · 2^-n becomes zero
    rf8-row      RF8 codes with a scale for each row, coded in the same way

Norms stay float32 in all of them but fp16.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor, nn

from narrowgauge.kernels import QuantizedTensor, quantize
from narrowgauge.priors import measure_rate
from narrowgauge.priors.coding import CompressedModel, CompressionReport, compress, load_compressed

E4M3 = "e4m3fn/row"
_CODES, _SCALE = "codes", "scale"


class Form(StrEnum):
    """What a file holds of the weights; see the module."""

    FP32 = "fp32"
    FP16 = "fp16"
    E4M3 = "e4m3"
    STEP = "step"
    RF8 = "rf8"
    RF8_ROW = "rf8-row"

    def scheme(self, step_bits: int) -> str | None:
        """The scheme of the codes; None for forms that have none."""
        return {Form.E4M3: E4M3, Form.RF8: f"rf8b{step_bits}:static=1.0", Form.RF8_ROW: "rf8/row"}.get(self)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A model at a stage, as it was read back.

    state: init, trained, fine-tuned, recovered, deepshape. form: of the file. nbytes: of the file. parameters: of the
    model. exp_golomb_0, exp_golomb, order, entropy, zeros: of the matrices rounded to 2^-step_bits, each rank coded
    with one code for all matrices (see `narrowgauge.priors.Rate`), bits per parameter with order 0 and with the best
    order. shape: ν of the matrices together, 0 where all are zero. loss: validation, nats per byte. seconds: of
    training up to here from the stage before, else of writing and reading the file. tokens_per_s: of the
    evaluation; train_tokens_per_s: of training, None where nothing was trained.
    """

    state: str
    form: str
    nbytes: int
    parameters: int
    exp_golomb_0: float
    exp_golomb: float
    order: int
    entropy: float
    zeros: float
    shape: float
    code_bits: float | None
    loss: float
    seconds: float
    tokens_per_s: float
    train_tokens_per_s: float | None = None

    @property
    def file_bits(self) -> float:
        """Bits of the file for each parameter, all included."""
        return 8.0 * self.nbytes / self.parameters

    @property
    def name(self) -> str:
        """`fine-tuned, rf8`."""
        return f"{self.state}, {self.form}"


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """What is coded: parameters of two or more dimensions."""
    return [p for p in model.parameters() if p.ndim >= 2]


def write_form(model: nn.Module, form: Form | str, path: Path, step_bits: int) -> CompressionReport:
    """Writes the weights in this form; what they take."""
    chosen = Form(form)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    if chosen in (Form.FP32, Form.FP16):
        dtype = torch.float16 if chosen is Form.FP16 else torch.float32
        return compress({name: w.to(dtype) for name, w in weights.items()}, path)
    if chosen is Form.E4M3:
        return compress(_uncoded(weights), path)
    if chosen is Form.STEP:
        return compress(weights, path, step_bits=step_bits, coding="exp-golomb")
    return compress(weights, path, scheme=chosen.scheme(step_bits), coding="exp-golomb")


def read_form(form: Form | str, path: Path) -> dict[str, Tensor]:
    """name → float32 weights of a file of `write_form`."""
    if Form(form) is not Form.E4M3:
        return {name: tensor.float() for name, tensor in load_compressed(path).items()}
    with CompressedModel(path) as file:
        found: dict[str, Tensor] = {}
        for stored in file.names:
            name, _, part = stored.rpartition(".")
            if part == _CODES:
                codes, scale = file.tensor(stored).view(torch.uint8), file.tensor(f"{name}.{_SCALE}")
                found[name] = QuantizedTensor(codes, scale, torch.ones(()), E4M3, torch.float32).dequantize()
            elif part != _SCALE:
                found[stored] = file.tensor(stored)
    return found


def _code_bits(report: CompressionReport) -> float | None:
    coded = [(row.parameters, row.code) for row in report.rows if row.code is not None]
    count = sum(parameters for parameters, _ in coded)
    return sum(parameters * code for parameters, code in coded) / count if count else None


def _uncoded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = {}
    for name, w in weights.items():
        if w.ndim < 2:
            stored[name] = w
        else:
            q = quantize(w, E4M3)
            stored[f"{name}.{_CODES}"], stored[f"{name}.{_SCALE}"] = q.codes.view(torch.float8_e4m3fn), q.scale
    return stored


def expected(model: nn.Module, form: Form | str, step_bits: int) -> dict[str, Tensor]:
    """name → float32 weights that a file of this form stands for, without a file."""
    chosen = Form(form)
    scheme = chosen.scheme(step_bits)

    def of(w: Tensor) -> Tensor:
        if chosen is Form.FP16:
            return w.half().float()
        if w.ndim < 2 or chosen is Form.FP32:
            return w
        if scheme is not None:
            return quantize(w, scheme).dequantize()
        # Zero has one sign in a file.
        return ((w.double() * 2.0**step_bits).round() * 2.0**-step_bits).float() + 0.0

    return {name: of(p.detach()) for name, p in model.named_parameters()}


@torch.no_grad()
def measure(
    model: nn.Module,
    state: str,
    form: Form | str,
    path: Path,
    evaluate: Callable[[nn.Module], float],
    *,
    step_bits: int,
    tokens: int,
    seconds: float | None = None,
    train_tokens_per_s: float | None = None,
) -> Stage:
    """Writes `path`, reads it back into a copy of the model, and measures that. tokens: how many `evaluate` reads;
    seconds: of the stage, those of writing and reading if None.

    RuntimeError where the file does not give back what its form says.
    """
    chosen = Form(form)
    start = time.perf_counter()
    report = write_form(model, chosen, path, step_bits)
    loaded = read_form(chosen, path)
    spent = time.perf_counter() - start
    wanted = expected(model, chosen, step_bits)
    different = [name for name in wanted if name not in loaded or not torch.equal(wanted[name], loaded[name])]
    if different or len(loaded) != len(wanted):
        raise RuntimeError(f"{state}, {chosen}: {path} does not give back the weights: {different or sorted(loaded)}")
    reloaded = copy.deepcopy(model)
    for name, p in reloaded.named_parameters():
        p.copy_(loaded[name])
    rate = measure_rate(matrices(reloaded), 2.0**-step_bits)
    start = time.perf_counter()
    loss = evaluate(reloaded)
    evaluated = time.perf_counter() - start
    return Stage(
        state=state,
        form=str(chosen),
        nbytes=report.nbytes,
        parameters=sum(p.numel() for p in reloaded.parameters()),
        exp_golomb_0=rate.exp_golomb[0],
        exp_golomb=rate.exp_golomb[rate.best_order],
        order=rate.best_order,
        entropy=rate.entropy,
        zeros=rate.zeros,
        shape=0.0 if rate.prior is None else rate.prior.shape,
        code_bits=_code_bits(report),
        loss=loss,
        seconds=spent if seconds is None else seconds,
        tokens_per_s=tokens / evaluated,
        train_tokens_per_s=train_tokens_per_s,
    )
