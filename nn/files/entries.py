"""What a file says of one quantised tensor: its scheme, the tensors it consists of, and all that decoding takes.

scheme, granularity     as text; of what was stored, for people and for this library
shape, dtype            of the tensor that was quantised
matrix                  [rows, columns] of its codes: the tensor flattened, as a layer's product takes it
transposed              whether the matrix is that of the tensor turned over
groups                  so many equal blocks of rows were quantised each by itself
element, bits           format of a code, and its width
packing                 "bits" (formats/packing.py) below 8 bits, else "none"
codes, scale, outer, zero_point     names of stored tensors, null where there is none
tile                    rows and columns that share a factor, null for all
scale_format            null: scales are float32; else they are codes of this format
micro                   null, or {size, bits, count}: so many exponents of pairs above the scale's own bits
double                  null, or {format, run, second, mean}: scales are codes of `format`
gain                    by how much the values are too large
rotation, signs         0, or the block of the Hadamard rotation along the columns that came before; its signs, or null
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narrowgauge.formats import BlockFormat, get
from narrowgauge.formats.model_file import PARTS
from narrowgauge.kernels.packing import pack
from narrowgauge.kernels.tensor import QuantizedTensor
from narrowgauge.nn.files.container import dtype_name
from narrowgauge.nn.files.number_formats import add_format
from narrowgauge.nn.inference.double import FORMAT, RUN
from narrowgauge.nn.restorable import Encoded


def encoded(q: QuantizedTensor) -> Encoded:
    """What `quantize` gave, its codes packed."""
    spec = q.scheme
    codes = q.codes.reshape(1) if q.codes.dim() == 0 else q.codes
    packed = codes if spec.element.bits == 8 else pack(codes, spec.element.bits)
    parts = {"codes": packed, "scale": q.scale} | ({"outer": q.outer} if spec.two_level else {})
    return Encoded(spec, tuple(q.shape), q.dtype, parts)


def entry_of(tensor: Encoded, names: Mapping[str, str], formats: dict[str, Any]) -> dict[str, Any]:
    """The entry of a tensor whose parts the file calls `names`; its formats are added to the section `formats`."""
    fmt = tensor.scheme.format
    block = fmt if isinstance(fmt, BlockFormat) else None
    add_format(formats, fmt)
    double = None
    if "second" in tensor.parts:
        add_format(formats, get(FORMAT))
        double = {"format": FORMAT, "run": RUN, "second": names["second"], "mean": names["mean"]}
    element, signs = tensor.scheme.element, tensor.signs
    return {
        "scheme": str(tensor.scheme),
        "granularity": tensor.scheme.granularity,
        "shape": list(tensor.shape),
        "dtype": dtype_name(tensor.dtype),
        "matrix": list(tensor.rows_and_columns),
        "transposed": tensor.transposed,
        "groups": tensor.groups,
        "element": element.name,
        "bits": element.bits,
        "packing": "none" if element.bits == 8 else "bits",
        **{part: names.get(part) for part in PARTS[:4]},
        "tile": list(tensor.scheme.factor_tile),
        "scale_format": None if block is None else block.scale_format.name,
        "micro": _micro(block),
        "double": double,
        "gain": tensor.gain,
        "rotation": tensor.rotation,
        "signs": None if signs is None else [int(sign) for sign in signs],
    }


def _micro(fmt: BlockFormat | None) -> dict[str, int] | None:
    if fmt is None or not fmt.micro_size:
        return None
    return {"size": fmt.micro_size, "bits": fmt.micro_bits, "count": fmt.micro_count}
