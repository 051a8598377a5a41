"""What the numbers given to a trainer may be."""

from pathlib import Path

from narrowgauge.train.data import BatchSource


def check_settings(
    data: object,
    *,
    grad_accumulation: int,
    clip_norm: float | None,
    eval_every: int,
    save_every: int,
    save_path: str | Path | None,
    keep: int,
    stops_early: bool,
    monitored: bool,
    parallel: str | None,
) -> None:
    """``ValueError`` or ``TypeError`` that names the first argument that does not fit."""
    if not isinstance(data, BatchSource):
        raise TypeError(f"data: expected a BatchSource such as BatchStream(corpus, …), got {type(data).__name__}")
    for name, count in (("grad_accumulation", grad_accumulation), ("keep", keep)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm: expected a number above 0 or None, got {clip_norm!r}")
    for name, every in (("eval_every", eval_every), ("save_every", save_every)):
        if every < 0:
            raise ValueError(f"{name}: expected 0 (never) or more, got {every}")
    if bool(save_every) != (save_path is not None):
        raise ValueError(f"save_path: expected together with save_every, got {save_path!r} and save_every={save_every}")
    if stops_early and not eval_every:
        raise ValueError("early_stopping: expected together with eval_every above 0, it decides at evaluations")
    if monitored and parallel == "fsdp2":
        raise ValueError("monitor: cannot measure weights that are in shards; accepted: parallel='ddp' or None")
