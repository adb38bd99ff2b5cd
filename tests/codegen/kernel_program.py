"""Kernels on an emulated Cortex-M: a program that runs several forms of each of some cases and checks what they wrote.

A form is C that computes the case. The tensors of a case lie apart from each other with guard words between them;
nothing but the outputs may change, and every form leaves the bits of the first one, or only comes close to it where
that is all that is asked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from poet_codegen.emit.wrap import prototype
from poet_codegen.graph import AttrValue, DType, Graph, Kind, Node, Tensor
from poet_codegen.lower import view_roots
from poet_codegen.ops import registry
from poet_codegen.ops.gather import index_range
from poet_codegen.ops.registry import WORKSPACE, Blocked, Kernel
from poet_codegen.ops.split import CONTINUES
from poet_codegen.platformio.flags import ARITHMETIC, WARNINGS
from poet_codegen.render import render
from poet_codegen.resources import data_dir
from poet_hil.profiler.instructions import Image
from poet_hil.profiler.plugin import build_plugin, plugin_arguments, read_regions
from poet_hil.profiler.timing import Pricer, Profile, timing_table

GUARD_WORDS = 8
WORD_BYTES = 4
_LINK = ["--specs=rdimon.specs", "-Wl,--section-start=.vectors=0", "-Wl,-Ttext=0x9000", "-Wl,-Tdata=0x20000000"]

ENABLE_FPU = """    movw r0, #0xed88
    movt r0, #0xe000
    ldr r1, [r0]
    orr r1, r1, #0xf00000
    str r1, [r0]
    dsb
    isb
"""

_START = """
.syntax unified
.thumb
.section .vectors, "a"
.word 0x20400000
.word poet_test_start
.text
.thumb_func
.global poet_test_start
poet_test_start:
"""


@dataclass(frozen=True)
class Core:
    """A core, how code is compiled for it, and the machine of QEMU that runs it."""

    name: str
    flags: tuple[str, ...]
    machine: str
    """Of QEMU; '' for this machine."""
    has_fpu: bool


CORES = {
    core.name: core
    for core in (
        Core("cortex-m4", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "mps2-an386", True),
        Core("cortex-m7", ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), "mps2-an500", True),
        Core("cortex-m3", ("-mcpu=cortex-m3", "-mfloat-abi=soft"), "mps2-an385", False),
        Core("host", (), "", False),
        Core("sanitizers", ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"), "", False),
        # There is no machine with this core and enough memory; a Cortex-M3 runs its instructions, too.
        Core("cortex-m0", ("-mcpu=cortex-m0", "-mfloat-abi=soft"), "mps2-an385", False),
    )
}


@dataclass(frozen=True)
class Buffer:
    """A tensor that a kernel gets: `end` > 0 means int32 values in [0, end)."""

    name: str
    elements: int
    end: int
    is_filled: bool
    is_written: bool
    is_size: bool
    """No negative values: a variance, or what an update keeps squared."""


@dataclass(frozen=True)
class Form:
    """C functions that compute a case, and the calls with {0}, {1} for the tensors."""

    title: str
    sources: tuple[str, ...]
    call: str
    is_exact: bool = True
    """False: only close to the first form, being another algorithm."""
    is_foreign: bool = False
    """In a file of its own, compiled without our warnings."""


@dataclass(frozen=True)
class Case:
    """The tensors of some nodes, and their kernels with the positions of the tensors that each gets."""

    text: str
    ops: frozenset[str]
    buffers: tuple[Buffer, ...]
    steps: tuple[tuple[Kernel, tuple[int, ...]], ...]

    @property
    def kernel(self) -> Kernel:
        """That of a case of one node."""
        ((kernel, _),) = self.steps
        return kernel


def graph_case(
    graph: Graph, sizes: Sequence[str] = (), ends: Mapping[str, int] | None = None, variant: int = 0
) -> Case:
    """The case of all nodes of a graph, one after the other, in their variant of that number.

    The tensors `sizes` hold no negative values; int32 values of those in `ends` lie below that.
    """
    nodes = [node for node in graph.nodes if not registry.get(node.op).is_view]
    root = view_roots(graph)
    chosen = [registry.get(node.op).variants(graph, node)[variant] for node in nodes]
    kernels = [v.kernel for v in chosen]
    made = {name for node in nodes for name in node.outputs}
    goes_on = {name for node in nodes if CONTINUES in node.attrs for name in node.outputs}
    root[WORKSPACE] = WORKSPACE
    names = list(dict.fromkeys(root[name] for kernel in kernels for name in kernel.arguments))
    buffers = []
    for name in names:
        if name == WORKSPACE:
            words = max(v.workspace_bytes for v in chosen) // WORD_BYTES
            buffers.append(Buffer(name, words, 0, is_filled=False, is_written=True, is_size=False))
            continue
        tensor = graph.tensors[name]
        is_version = tensor.updates is not None
        is_filled = is_version or name in goes_on or name not in made
        end = 0
        if tensor.dtype is DType.INT32:
            bounds = index_range(graph, name)
            end = bounds[1] if bounds else (ends or {}).get(name, 2)
        is_size = is_version or name in sizes
        buffers.append(Buffer(name, tensor.elements, end, is_filled, name in made, is_size))
    text = ", ".join(f"{n.op} {[graph.tensors[name].shape for name in n.inputs]} {dict(n.attrs)}" for n in nodes)
    steps = tuple((kernel, tuple(names.index(root[name]) for name in kernel.arguments)) for kernel in kernels)
    return Case(text, frozenset(node.op for node in nodes), tuple(buffers), steps)


def case(
    op: str,
    shapes: Sequence[tuple[int, ...]],
    attrs: dict[str, AttrValue],
    *,
    sizes: Sequence[int] = (),
    ends: Mapping[int, int] | None = None,
    variant: int = 0,
) -> Case:
    """The case of a node of `op` on inputs of these shapes, in its variant of that number.

    Those at the positions `sizes` hold no negative values; those in `ends` are int32 below that.
    """
    types = dict.fromkeys(ends or {}, DType.INT32)
    tensors = {
        f"in{i}": Tensor(f"in{i}", shape, types.get(i, DType.FLOAT32), Kind.INPUT) for i, shape in enumerate(shapes)
    }
    node = Node(op, tuple(tensors), (), op, attrs=attrs)
    made = registry.get(op).shapes(tuple(tensors.values()), node)
    node = replace(node, outputs=tuple(f"out{i}" for i in range(len(made))))
    replaced = {f"out{new}": f"in{old}" for old, new in registry.get(op).in_place_pairs(node)}
    for name, shape in zip(node.outputs, made, strict=True):
        kind = Kind.UPDATED if name in replaced else Kind.VALUE
        tensors[name] = Tensor(name, shape, kind=kind, updates=replaced.get(name))
    graph = Graph("case", tensors, (node,), node.outputs)
    return graph_case(graph, [f"in{i}" for i in sizes], {f"in{i}": end for i, end in (ends or {}).items()}, variant)


def own_forms(case: Case, number: int, fused: bool = False) -> list[Form]:
    """The kernels' plain forms, and the blocked ones where there are some, which must have those numerics."""
    forms = []
    for title in ("plain", "blocked"):
        sources, calls = [], []
        for position, (kernel, tensors) in enumerate(case.steps):
            part: Kernel | Blocked = kernel
            values = kernel.values
            if title == "blocked" and kernel.blocked:
                part, values = kernel.blocked, kernel.blocked.render_values(fused)
            name = f"{title}{number}_{position}"
            sources.append(render(f"kernels/{part.template}", **values).replace(kernel.name, name))
            calls.append(f"{name}({', '.join(f'{{{tensor}}}' for tensor in tensors)})")
        if title == "plain" or any(kernel.blocked for kernel, _ in case.steps):
            forms.append(Form(title, tuple(sources), ", ".join(calls)))
    return forms


def build_program(
    cases: Sequence[Case], forms: Sequence[Sequence[Form]], folder: Path, core: Core, prelude: str = "", head: str = ""
) -> Path:
    """The linked program. Each form's call is a region of the profiler.

    `prelude` is C that the forms use, `head` what comes before all headers.
    """
    sources = {
        "kernels.c": [head, *_PRELUDE, render("c/poet_m4f.j2"), prelude],
        "main.c": [*_PRELUDE, (Path(__file__).parent / "kernel_program.c").read_text()],
    }
    declarations, runs = [], []
    for number, (c, own) in enumerate(zip(cases, forms, strict=True)):
        words, places = _places(c)
        rows = ", ".join(
            f"{{{place}, {b.elements}, {b.end}, {int(b.is_filled)}, {int(b.is_written)}, {int(b.is_size)}}}"
            for place, b in zip(places, c.buffers, strict=True)
        )
        runs.append(f"    {{\n        static const buffer_t buffers[] = {{{rows}}};")
        runs.append(f"        const case_t c = {{{number}, {words}, {len(places)}, buffers}};")
        for position, form in enumerate(own):
            if form.is_foreign:
                sources[f"foreign{number}_{position}.c"] = list(form.sources)
                declarations.append(f"void {form.call.partition('(')[0]}();")
            for source in form.sources if not form.is_foreign else ():
                sources["kernels.c"].append(f"{prototype(source)}\n{source}")
                declarations.append(prototype(source))
            arguments = form.call.format(*(f"(void *)(memory + {place})" for place in places))
            runs.append(f"        prepare(&c);\n        MARKED({arguments});")
            runs.append(f"        check(&c, {position}, {int(form.is_exact)});")
        runs.append("    }")
    most = max(_places(c)[0] for c in cases)
    sources["main.c"][0] = f"#define MEMORY_WORDS {most}\n{sources['main.c'][0]}"
    sources["main.c"] += [*declarations, "int main(void)\n{", *runs, "    return 0;\n}"]
    return _compiled(sources, folder, core)


_PRELUDE = (
    "#include <math.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <string.h>",
    '#include "poet/math.h"\n#include "poet/random.h"\n#include "poet/region.h"',
)


def _places(case: Case) -> tuple[int, list[int]]:
    """How many words of memory a case takes, and at which of them its tensors begin."""
    at, places = GUARD_WORDS, []
    for buffer in case.buffers:
        places.append(at)
        # AddressSanitizer sees the first byte before a tensor only where that begins at a multiple of 8 bytes.
        at += (buffer.elements + GUARD_WORDS + 1) // 2 * 2
    return at, places


def _compiled(sources: dict[str, list[str]], folder: Path, core: Core) -> Path:
    firmware = data_dir("firmware")
    tools = ["arm-none-eabi-gcc", "-mthumb"] if core.machine else ["cc"]
    tools += [f"-I{firmware / 'include'}"]
    # printf takes doubles; casts drop the const of what is only read.
    warnings = [flag for flag in WARNINGS if flag not in ("-Wmissing-prototypes", "-Wdouble-promotion")]
    gnu = [flag for flag in ARITHMETIC if not flag.startswith("-std")]
    objects = []
    for name, parts in sources.items():
        path = folder / name
        path.write_text("\n".join(parts))
        own = [] if name.startswith("foreign") else warnings
        objects.append(_object(tools, [*gnu, *own, *core.flags], path))
    for name in ("math.c", "random.c"):
        target = folder / name
        target.write_text((firmware / "src" / name).read_text(encoding="utf-8"))
        objects.append(_object(tools, [*ARITHMETIC, *WARNINGS, *core.flags], target))
    elf = folder / "program.elf"
    if core.machine:
        (folder / "start.s").write_text(_START + (ENABLE_FPU if core.has_fpu else "") + "    bl _start\n")
        objects += [*_LINK, str(folder / "start.s")]
    subprocess.run([*tools, *core.flags, *objects, "-lm", "-o", str(elf)], check=True)
    return elf


def _object(tools: Sequence[str], flags: Sequence[str], path: Path) -> str:
    target = path.with_suffix(".o")
    subprocess.run([*tools, *flags, "-c", str(path), "-o", str(target)], check=True)
    return str(target)


@dataclass(frozen=True)
class Outcome:
    """What a form of a case left behind: a checksum of its outputs, and 'right' or what is wrong."""

    case: int
    form: int
    checksum: str
    verdict: str


def outcomes(elf: Path, core: Core, arguments: Sequence[str] = ()) -> list[Outcome]:
    """Run a program. Raises RuntimeError with what it said when it did not run to its end."""
    command = [str(elf)]
    if core.machine:
        machine = ["-machine", core.machine, "-display", "none", "-serial", "none", "-monitor", "none", "-semihosting"]
        command = ["qemu-system-arm", *machine, *arguments, "-kernel", str(elf)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    said = done.stdout + done.stderr
    lines = [line.split(maxsplit=3) for line in said.splitlines() if line]
    if done.returncode or not lines:
        raise RuntimeError(f"{elf} on {core.name} ended with {done.returncode}: {said[-2000:]}")
    return [Outcome(int(number), int(form), checksum, verdict) for number, form, checksum, verdict in lines]


def failures(cases: Sequence[Case], found: Sequence[Outcome]) -> list[str]:
    """The calls that did not leave what they should."""
    return [f"{cases[o.case].text}, form {o.form}: {o.verdict}" for o in found if o.verdict != "right"]


def profiles(
    cases: Sequence[Case], forms: Sequence[Sequence[Form]], folder: Path, core: Core, prelude: str = ""
) -> list[dict[str, Profile]]:
    """What every form of every case takes on a core, by the form's title. Raises RuntimeError where one is wrong."""
    elf, output = build_program(cases, forms, folder, core, prelude), folder / "profile.txt"
    wrong = failures(cases, outcomes(elf, core, plugin_arguments(build_plugin(folder), output)))
    if wrong:
        raise RuntimeError("\n".join(wrong))
    pricer = Pricer(Image(elf), timing_table(core.name))
    regions = iter(read_regions(output))
    return [{form.title: pricer.price(next(regions)) for form in own} for own in forms]


def differing(cases: Sequence[Case], folder: Path, core: str = "cortex-m4") -> list[str]:
    """Run both forms of every case; the cases that wrote beside their outputs, or whose blocked form has other bits."""
    forms = [own_forms(c, number) for number, c in enumerate(cases)]
    elf = build_program(cases, forms, folder, CORES[core])
    return failures(cases, outcomes(elf, CORES[core]))
