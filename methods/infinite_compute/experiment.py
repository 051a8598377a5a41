"""Little text, many epochs: weight decay, members, and a student of theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from narrowgauge.methods.infinite_compute.ensemble import Ensemble
from narrowgauge.methods.infinite_compute.mixture import MixedStream, sample_windows, student_steps
from narrowgauge.methods.infinite_compute.power_law import fit_power_law
from narrowgauge.train import ByteCorpus, Claim, Context, Experiment, Trainer, cross_entropy, tiny_llama
from narrowgauge.train.data import Batch
from narrowgauge.train.decoding import eval_mode
from narrowgauge.train.distributed import Processes
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.validation import validation_loss
from narrowgauge.train.windows import WindowStream, choose_windows, cut_windows

SEQ_LEN, BATCH_SIZE = 64, 16
TRAIN_WINDOWS, VALIDATION_WINDOWS = 256, 1024
STANDARD, STRONG = 0.1, 2.0
STANDARD_EPOCHS, EPOCHS, MEMBERS = (8, 16, 32), 24, 4
STUDENT_EPOCHS, TEACHER_SHARE, TEACHER_EPOCHS = 16, 0.75, 4
_ALL_EPOCHS = sum(STANDARD_EPOCHS) + MEMBERS * EPOCHS + 5 * STUDENT_EPOCHS + 20

EXPERIMENT_SETTING = (
    "A Llama 64 wide with 2 layers on 256 windows of 65 bytes (17 KB) of the standard library, validated on 67 KB of"
    " other files. Weight decay 0.1 for 8, 16 and 32 epochs; 2.0 for 24 epochs, 4 models, their mean logits; a student"
    " of the same size with weight decay 0.1, 3/4 of whose text the 4 models wrote, 16 epochs of the real text; and one"
    " that reads written text alone. The same validation text chooses the epochs and tells the losses."
)


@dataclass(frozen=True, slots=True)
class _Text:
    train: list[bytes]
    validation: list[bytes]

    def stream(self, seed: int, windows: Sequence[bytes] | None = None, batch_size: int = BATCH_SIZE) -> WindowStream:
        chosen = self.train if windows is None else windows
        return WindowStream(chosen, self.validation, batch_size=batch_size, seq_len=SEQ_LEN, seed=seed)


def _steps(context: Context, epochs: int) -> int:
    return context.steps(epochs * TRAIN_WINDOWS // BATCH_SIZE)


def _text(context: Context) -> _Text:
    corpus = ByteCorpus(max_bytes=2_000_000)
    train, held_out = cut_windows(corpus.train, SEQ_LEN), cut_windows(corpus.held_out, SEQ_LEN)
    validation = choose_windows(held_out, context.count(VALIDATION_WINDOWS, least=BATCH_SIZE), derive_seed("held out"))
    return _Text(choose_windows(train, TRAIN_WINDOWS, context.seed), validation)


def compare(context: Context) -> dict[str, float]:
    """All arms of one seed; validation losses in nats per byte."""
    text = _text(context)
    validation = text.stream(0).validation()
    values: dict[str, float] = {}
    for epochs in STANDARD_EPOCHS:
        context.begin(f"weight decay {STANDARD}, {epochs} epochs", epochs / _ALL_EPOCHS)
        trainer = _train(context, text, seed=context.seed, epochs=epochs, weight_decay=STANDARD)
        values[f"standard, {epochs} epochs"] = mean_loss(trainer.model, validation)
    values["standard"] = min(values.values())

    members: list[nn.Module] = []
    for index in range(MEMBERS):
        context.begin(f"member {index + 1}, weight decay {STRONG}", EPOCHS / _ALL_EPOCHS)
        seed = context.seed if index == 0 else derive_seed(context.seed, "member", index)
        trainer = _train(context, text, seed=seed, epochs=EPOCHS, weight_decay=STRONG)
        members.append(trainer.model)
        values[f"{index + 1} members"] = mean_loss(Ensemble(members), validation)
    losses = [values[f"{count + 1} members"] for count in range(MEMBERS)]
    fit = fit_power_law(range(1, MEMBERS + 1), losses)
    values |= {
        "regularised": sum(mean_loss(member, validation) for member in members) / MEMBERS,
        "members that did not help": float(sum(later >= earlier for earlier, later in pairwise(losses))),
        "limit of many members": fit.law.asymptote,
        "exponent over members": fit.law.exponent,
    }
    return values | _distil(context, text, Ensemble(members), validation)


def _distil(context: Context, text: _Text, teacher: nn.Module, validation: Sequence[Batch]) -> dict[str, float]:
    context.begin("the teacher writes", 20 / _ALL_EPOCHS)
    steps = student_steps(_steps(context, STUDENT_EPOCHS), TEACHER_SHARE)
    num_written = int(BATCH_SIZE * TEACHER_SHARE)
    count = steps * num_written // TEACHER_EPOCHS
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "teacher"))
    first = [text.train[index % len(text.train)][index % (SEQ_LEN + 1)] for index in range(count)]
    written = sample_windows(teacher, first, seq_len=SEQ_LEN, generator=generator)
    seed = derive_seed(context.seed, "student")
    context.begin("student of mixed text", 4 * STUDENT_EPOCHS / _ALL_EPOCHS)
    mixed = MixedStream(
        text.stream(seed, batch_size=BATCH_SIZE - num_written), text.stream(seed, written, batch_size=num_written)
    )
    model = context.prepare(tiny_llama(seed))
    student = context.fit(model, mixed, steps, weight_decay=STANDARD)
    context.begin("student of written text alone", STUDENT_EPOCHS / _ALL_EPOCHS)
    model = context.prepare(tiny_llama(seed))
    alone = context.fit(model, text.stream(seed, written), _steps(context, STUDENT_EPOCHS), weight_decay=STANDARD)
    return {
        "student": mean_loss(student.model, validation),
        "student of written text": mean_loss(alone.model, validation),
    }


def _train(context: Context, text: _Text, *, seed: int, epochs: int, weight_decay: float) -> Trainer:
    model = context.prepare(tiny_llama(seed))
    return context.fit(model, text.stream(seed), _steps(context, epochs), weight_decay=weight_decay, seed=seed)


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Cross-entropy in nats per labelled token, in eval mode."""
    with eval_mode(model):
        return validation_loss(cross_entropy, model, batches, Processes(None))["val_loss"]


def build() -> Experiment:
    """The experiment with its claims."""
    return Experiment(
        setting=EXPERIMENT_SETTING,
        claims=(
            Claim("20 times the weight decay beats the best epochs of the usual one", "regularised", "standard"),
            Claim("each further member lowers the loss", "members that did not help", 0.0, margin=-0.5),
            Claim("four members beat one", "4 members", "regularised", margin=0.03),
            Claim("a student of mixed text beats the same size on real text alone", "student", "regularised"),
            Claim(
                "the usual weight decay over-fits: 32 epochs worse than 16",
                "standard, 32 epochs",
                "standard, 16 epochs",
                better="higher",
                judged=False,
            ),
            Claim("written text alone is worse than mixed", "student", "student of written text", judged=False),
        ),
        run=compare,
    )
