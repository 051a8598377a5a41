"""Builds a Triton kernel for a GPU target ahead of time, on a machine that has none, and judges the result.

A case is compiled as a launch would compile it: pointers, sizes and strides are taken to be multiples of 16. A build is
bad where the instruction that the case expects is not in the assembly, where registers spill, where it needs more
shared memory than a program of the target may have, or where no thread reads as many bytes at a time as it should.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrowgauge.bench.assembly import matrix_instructions, tensor_copies, widest_load, widest_store
from narrowgauge.kernels._triton import triton
from narrowgauge.kernels.op import CompileCase


@dataclass(frozen=True)
class Target:
    """A GPU architecture: Triton's names for it, and the shared memory (bytes) that one program may have."""

    backend: str
    arch: int | str
    warp_size: int
    shared_bytes: int


# Largest opt-in shared memory of a block (CUDA C++ Programming Guide, compute capabilities), and the LDS of CDNA3, 4.
TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 << 10),
    "sm_89": Target("cuda", 89, 32, 99 << 10),
    "sm_90": Target("cuda", 90, 32, 227 << 10),
    "sm_100": Target("cuda", 100, 32, 227 << 10),
    "sm_120": Target("cuda", 120, 32, 99 << 10),
    "gfx942": Target("hip", "gfx942", 64, 64 << 10),
    "gfx950": Target("hip", "gfx950", 64, 160 << 10),
}


@dataclass(frozen=True)
class Build:
    """One kernel on one target. instructions: those that multiply matrices. spills: registers' bytes in local memory
    (CUDA) or spilled registers (HIP). load_bytes, store_bytes: the widest access to global memory by one thread.
    tensor_copies: by the tensor memory accelerator. problems: empty for a good build."""

    op: str
    case: str
    target: str
    instructions: tuple[str, ...]
    registers: int
    spills: int
    shared_bytes: int
    load_bytes: int
    store_bytes: int
    tensor_copies: tuple[str, ...]
    seconds: float
    problems: tuple[str, ...]


def compile_case(case: CompileCase, target: Target) -> Any:
    """Triton's compiled kernel."""
    names = case.kernel.arg_names
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    # i64 arguments are random seeds and offsets: the only integers that are no sizes.
    aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or signature[name] == "i32"]
    source = triton.compiler.ASTSource(
        fn=case.kernel,
        signature=signature,
        constexprs=case.constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    gpu = triton.backends.compiler.GPUTarget(target.backend, target.arch, target.warp_size)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, **dict(case.options)}
    return triton.compile(source, target=gpu, options=options)


def _cuda_resources(cubin: bytes) -> tuple[int, int]:
    """(registers of a thread, bytes of its stack), from the binary; Triton's own functions need a driver."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _sum(r"\bREG:(\d+)", text), _sum(r"\bSTACK:(\d+)", text)


def _sum(pattern: str, text: str) -> int:
    return sum(int(number) for number in re.findall(pattern, text))


def _hip_resources(assembly: str) -> tuple[int, int]:
    spills = _sum(r"\.[sv]gpr_spill_count:\s+(\d+)", assembly)
    return _sum(r"\.vgpr_count:\s+(\d+)", assembly), spills


def problems_of(case: CompileCase, target_name: str, assembly: str, spills: int, shared_bytes: int) -> tuple[str, ...]:
    """What is wrong with a compiled kernel, in words."""
    target = TARGETS[target_name]
    expected = [text for name, text in case.expect if name == target_name]
    problems = [f"{text!r} is not in the assembly" for text in expected if text not in assembly]
    if spills:
        problems.append(f"spills {spills} {'bytes' if target.backend == 'cuda' else 'registers'}")
    if shared_bytes > target.shared_bytes:
        problems.append(f"needs {shared_bytes} bytes of shared memory, a program may have {target.shared_bytes}")
    width = widest_load(assembly)
    if width < case.load_bytes and not tensor_copies(assembly):
        problems.append(f"threads read at most {width} bytes at a time, {case.load_bytes} are expected")
    return tuple(problems)


def build(op: str, case: CompileCase, target_name: str) -> Build:
    """Compiles one case for one target and judges the result."""
    target = TARGETS[target_name]
    start = time.perf_counter()
    try:
        kernel = compile_case(case, target)
    except (triton.errors.TritonError, RuntimeError) as error:
        problem = f"does not compile: {type(error).__name__}: {_innermost(error)}"
        return Build(op, case.name, target_name, (), 0, 0, 0, 0, 0, (), time.perf_counter() - start, (problem,))
    if target.backend == "cuda":
        assembly = kernel.asm["ptx"]
        registers, spills = _cuda_resources(kernel.asm["cubin"])
    else:
        assembly = kernel.asm["amdgcn"]
        registers, spills = _hip_resources(assembly)
    return Build(
        op=op,
        case=case.name,
        target=target_name,
        instructions=matrix_instructions(assembly),
        registers=registers,
        spills=spills,
        shared_bytes=kernel.metadata.shared,
        load_bytes=widest_load(assembly),
        store_bytes=widest_store(assembly),
        tensor_copies=tensor_copies(assembly),
        seconds=time.perf_counter() - start,
        problems=problems_of(case, target_name, assembly, spills, kernel.metadata.shared),
    )


def _innermost(error: BaseException) -> str:
    """The last line of the first cause: Triton wraps an error once per call in the kernel."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or "no message").splitlines()[-1]
