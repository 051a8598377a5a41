"""`narrowgauge decompress`: a file of `compress` as a safetensors file."""

from __future__ import annotations

import argparse
from pathlib import Path

from narrowgauge.atomic_files import replacing
from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import megabytes, print_json, print_text

SUMMARY = "a file of `compress` as a .safetensors file"
DESCRIPTION = """\
Decode a file that `narrowgauge compress` wrote: every tensor in its dtype and shape, with the values it was quantised
to. With --names nothing else is read. A file that is damaged is refused.

examples:
  narrowgauge decompress model.ngz model.safetensors
  narrowgauge decompress model.ngz head.safetensors --names lm_head.weight
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("file", metavar="FILE", help="a file of `narrowgauge compress`")
    parser.add_argument("out", metavar="OUT", help="the .safetensors file to write")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of these tensors alone")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Writes the file, says what is in it."""
    from safetensors.torch import save_file

    from narrowgauge.priors.coding import CompressedModel

    with CompressedModel(args.file) as model, progress("decompress") as show:
        chosen = model.checked_names(args.names)
        tensors = {}
        for done, name in enumerate(chosen):
            show(done, len(chosen), name)
            tensors[name] = model.tensor(name)
        metadata = model.metadata
    out = Path(args.out).absolute()
    if out.is_dir():
        raise ValueError(f"OUT: {out} is a folder, accepted: the path of a file")
    with replacing(out) as partial:
        save_file(tensors, partial, metadata=metadata or {"format": "pt"})
    size, parameters = out.stat().st_size, sum(tensor.numel() for tensor in tensors.values())
    if args.json:
        print_json({"file": out, "tensors": list(tensors), "parameters": parameters, "nbytes": size})
    else:
        print_text(f"{out}: {len(tensors)} tensors, {parameters:,} parameters, {megabytes(size)}")
    return 0
