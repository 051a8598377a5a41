"""Builds every Triton kernel for every GPU target ahead of time, on a machine that has none.

    python -m narrowgauge.bench.compile_matrix [--target sm_90] [--case gemm] [--json]

Each `CompileCase` of each operator is compiled as a launch would compile it: pointers, sizes and strides are taken to
be multiples of 16. A build fails where the instruction that the case expects is not in the assembly, where registers
spill, or where it needs more shared memory than a program of the target may have.
Exit status: 0 all good, 1 some build failed, 2 nothing could be built.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import narrowgauge.kernels as kernels
from narrowgauge.kernels._triton import HAS_TRITON, triton
from narrowgauge.kernels.op import OPS, CompileCase


@dataclass(frozen=True)
class Target:
    """A GPU architecture: Triton's names for it, and the shared memory (bytes) that one program may have."""

    backend: str
    arch: int | str
    warp_size: int
    shared_bytes: int


# Largest opt-in shared memory of a block (CUDA C++ Programming Guide, compute capabilities), and CDNA3's LDS.
TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 << 10),
    "sm_90": Target("cuda", 90, 32, 227 << 10),
    "sm_100": Target("cuda", 100, 32, 227 << 10),
    "gfx942": Target("hip", "gfx942", 64, 64 << 10),
}

_MATRIX_INSTRUCTION = re.compile(r"\b(?:wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_s?mfmac?_)[\w.:]*")
_ASYNC_COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], (0x[0-9a-f]+|\d+)")
_PTX_LOAD = re.compile(r"\bld\.global(?:\.[A-Za-z]\w*(?:::\w+)*)*?(?:\.v(\d))?\.b(\d+)")
_DWORD_LOAD = re.compile(r"\b(?:global|buffer)_load_dword(?:x(\d))?\b")


@dataclass(frozen=True)
class Build:
    """One kernel on one target. spills: registers' bytes in local memory (CUDA) or spilled registers (HIP).
    load_bytes: the widest load from global memory by one thread. problems: empty for a good build."""

    op: str
    case: str
    target: str
    instructions: tuple[str, ...]
    registers: int
    spills: int
    shared_bytes: int
    load_bytes: int
    seconds: float
    problems: tuple[str, ...]


def load_ops() -> None:
    """Imports every public module of `narrowgauge.kernels`, so that `OPS` is complete."""
    for module in iter_modules(kernels.__path__):
        if not module.name.startswith("_"):
            import_module(f"narrowgauge.kernels.{module.name}")


def cases(pattern: str = "") -> Iterator[tuple[str, CompileCase]]:
    """(operator, case) of every case whose name contains `pattern`."""
    for op in OPS.values():
        yield from ((op.name, case) for case in op.compile_cases() if pattern in case.name)


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
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
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


def widest_load(assembly: str) -> int:
    """Bytes that one thread reads from global memory by one instruction, at most; PTX or AMD GCN."""
    widths = [int(size, 0) for size in _ASYNC_COPY.findall(assembly)]
    widths += [int(count or 1) * int(bits) // 8 for count, bits in _PTX_LOAD.findall(assembly)]
    widths += [4 * int(count or 1) for count in _DWORD_LOAD.findall(assembly)]
    return max(widths, default=0)


def problems_of(case: CompileCase, target_name: str, assembly: str, spills: int, shared_bytes: int) -> tuple[str, ...]:
    """What is wrong with a compiled kernel, in words."""
    target = TARGETS[target_name]
    expected = [text for name, text in case.expect if name == target_name]
    problems = [f"{text!r} is not in the assembly" for text in expected if text not in assembly]
    if spills:
        problems.append(f"spills {spills} {'bytes' if target.backend == 'cuda' else 'registers'}")
    if shared_bytes > target.shared_bytes:
        problems.append(f"needs {shared_bytes} bytes of shared memory, a program may have {target.shared_bytes}")
    return tuple(problems)


def build(op: str, case: CompileCase, target_name: str) -> Build:
    """Compiles one case for one target and judges the result."""
    target = TARGETS[target_name]
    start = time.perf_counter()
    try:
        kernel = compile_case(case, target)
    except (triton.errors.TritonError, RuntimeError) as error:
        problem = f"does not compile: {type(error).__name__}: {_innermost(error)}"
        return Build(op, case.name, target_name, (), 0, 0, 0, 0, time.perf_counter() - start, (problem,))
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
        instructions=tuple(sorted(set(_MATRIX_INSTRUCTION.findall(assembly)))),
        registers=registers,
        spills=spills,
        shared_bytes=kernel.metadata.shared,
        load_bytes=widest_load(assembly),
        seconds=time.perf_counter() - start,
        problems=problems_of(case, target_name, assembly, spills, kernel.metadata.shared),
    )


def _innermost(error: BaseException) -> str:
    """The last line of the first cause: Triton wraps an error once per call in the kernel."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or "no message").splitlines()[-1]


def _line(result: Build) -> str:
    state = "ok  " if not result.problems else "FAIL"
    text = f"{state} {result.target:7s}{result.registers:4d} regs {result.spills:3d} spills "
    text += f"{result.shared_bytes / 1024:6.1f} KiB {result.load_bytes:3d} B loads  {result.case}"
    text += "".join(f"\n{'':14s}{name}" for name in result.instructions)
    return text + "".join(f"\n{'':14s}problem: {problem}" for problem in result.problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m narrowgauge.bench.compile_matrix",
        description="Build every Triton kernel for every GPU target, without a GPU, and check the result: the expected "
        "tensor-core instruction, no spilled registers, shared memory within the target's limit.",
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this target (may be repeated)")
    parser.add_argument("--case", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    if not HAS_TRITON:
        print("compile_matrix: the package 'triton' is not installed", file=sys.stderr)
        return 2
    load_ops()
    chosen = list(cases(arguments.case))
    if not chosen:
        print(f"compile_matrix: --case: no case's name contains {arguments.case!r}", file=sys.stderr)
        return 2
    if not all(isinstance(case.kernel, triton.runtime.JITFunction) for _, case in chosen):
        print(
            "compile_matrix: the kernels are those of Triton's interpreter; run it without TRITON_INTERPRET",
            file=sys.stderr,
        )
        return 2
    targets = arguments.target or list(TARGETS)
    builds = []
    for op, case in chosen:
        for target in targets:
            if target in case.targets:
                builds.append(build(op, case, target))
                if not arguments.json:
                    print(_line(builds[-1]), flush=True)
    failed = [result for result in builds if result.problems]
    if arguments.json:
        rows = [asdict(result) for result in builds]
        print(json.dumps({"triton": triton.__version__, "failed": len(failed), "builds": rows}, indent=1))
    else:
        print(f"{len(builds) - len(failed)} of {len(builds)} builds are good (triton {triton.__version__})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
