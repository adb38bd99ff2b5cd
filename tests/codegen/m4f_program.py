"""Blocked kernels on an emulated Cortex-M4F beside the plain ones, compiled into one program."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poet_codegen.graph import AttrValue, Graph, GraphBuilder, Kind, Node, Tensor
from poet_codegen.ops import registry
from poet_codegen.ops.registry import Kernel
from poet_codegen.platformio.flags import ARITHMETIC, WARNINGS
from poet_codegen.render import render
from poet_codegen.resources import data_dir
from poet_hil.profiler.instructions import Image
from poet_hil.profiler.plugin import build_plugin, plugin_arguments, read_regions
from poet_hil.profiler.timing import Pricer, Profile, timing_table

TOOLS = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]
LINK = ["--specs=rdimon.specs", "-Wl,--section-start=.vectors=0", "-Wl,-Ttext=0x9000", "-Wl,-Tdata=0x20000000"]
QEMU = ["qemu-system-arm", "-machine", "mps2-an386", "-display", "none", "-serial", "none", "-monitor", "none"]

ENABLE_FPU = """    movw r0, #0xed88
    movt r0, #0xe000
    ldr r1, [r0]
    orr r1, r1, #0xf00000
    str r1, [r0]
    dsb
    isb
"""

# Turns the FPU on, then goes to newlib's start.
START = f"""
.syntax unified
.thumb
.section .vectors, "a"
.word 0x20400000
.word poet_test_start
.text
.thumb_func
.global poet_test_start
poet_test_start:
{ENABLE_FPU}    b _start
"""

MAIN = """
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
{prelude}
{kernels}
#include "poet/region.h"
#define MARKED(call) (poet_region_begin(), call, poet_region_end())
#define GUARD 4
static float operands[3][{most} + GUARD], expected[{most} + GUARD], result[{most} + GUARD];
static uint32_t state = 1;

static void fill(float *data, int count)
{{
    for (int i = 0; i < count; i++) {{
        state = state * 1664525u + 1013904223u;
        data[i] = (float)(int32_t)state / 2147483648.0f;
    }}
}}

static void compare(int number, int count)
{{
    const int differ = memcmp(result, expected, sizeof(float) * (size_t)(count + GUARD)) != 0;
    printf("%d %s\\n", number, differ ? "differs" : "equal");
}}

int main(void)
{{
{calls}
    return 0;
}}
"""


@dataclass(frozen=True)
class Case:
    """One node: shapes of its inputs, attributes, and its kernel."""

    text: str
    inputs: tuple[int, ...]
    output: int
    kernel: Kernel


def case(op: str, shapes: Sequence[tuple[int, ...]], attrs: dict[str, AttrValue]) -> Case:
    """A node of `op` on inputs of these shapes."""
    builder = GraphBuilder("case")
    names = tuple(builder.tensor(Tensor(f"in{i}", shape, kind=Kind.INPUT)) for i, shape in enumerate(shapes))
    node = Node(op, names, ("out",), op, attrs=attrs)
    (shape,) = registry.get(op).shapes(tuple(builder.tensors[n] for n in names), node)
    out = Tensor("out", shape)
    graph = Graph("case", {**builder.tensors, "out": out}, (node,), ("out",))
    sizes = tuple(builder.tensors[n].elements for n in names)
    return Case(f"{op} {shapes} {attrs}", sizes, out.elements, registry.get(op).kernel(graph, node))


def differing(cases: Sequence[Case], folder: Path) -> list[str]:
    """Run every case's blocked kernel on QEMU; the cases whose bits, or what lies behind them, are not the plain
    kernel's."""
    lines = _run(build_program(cases, folder), ())
    assert len(lines) == len(cases), lines
    return [cases[int(number)].text for number, verdict in lines if verdict != "equal"]


def profiles(cases: Sequence[Case], folder: Path) -> list[tuple[Profile, Profile]]:
    """(plain, blocked) of every case, executed on QEMU and priced with the Cortex-M4's timing table."""
    elf, output = build_program(cases, folder), folder / "profile.txt"
    lines = _run(elf, plugin_arguments(build_plugin(folder), output))
    assert all(verdict == "equal" for _, verdict in lines), lines
    pricer = Pricer(Image(elf), timing_table("cortex-m4"))
    priced = [pricer.price(region) for region in read_regions(output)]
    return list(zip(priced[::2], priced[1::2], strict=True))


def build_program(cases: Sequence[Case], folder: Path) -> Path:
    """The linked program that runs every case's plain kernel, then its blocked one, and compares."""
    kernels, calls = [], []
    for number, c in enumerate(cases):
        assert c.kernel.blocked is not None, c.text
        plain = render(f"kernels/{c.kernel.template}", **c.kernel.values)
        blocked = render(f"kernels/{c.kernel.blocked.template}", **c.kernel.blocked.values)
        kernels += [
            _renamed(plain, c.kernel.name, f"plain{number}"),
            _renamed(blocked, c.kernel.name, f"blocked{number}"),
        ]
        operands = ", ".join(f"operands[{i}]" for i in range(len(c.inputs)))
        calls += [f"    fill(operands[{i}], {size});" for i, size in enumerate(c.inputs)]
        calls += [
            "    memset(expected, 0x55, sizeof expected);",
            "    memset(result, 0x55, sizeof result);",
            f"    MARKED(plain{number}({operands}, expected));",
            f"    MARKED(blocked{number}({operands}, result));",
            f"    compare({number}, {c.output});",
        ]
    prelude = render("c/poet_m4f.j2")
    most = max(size for c in cases for size in (*c.inputs, c.output))
    text = MAIN.format(prelude=prelude, kernels="\n".join(kernels), calls="\n".join(calls), most=most)
    (folder / "main.c").write_text(text)
    (folder / "start.s").write_text(START)
    elf = folder / "program.elf"
    sources = [str(folder / "main.c"), str(folder / "start.s")]
    flags = [flag for flag in ARITHMETIC if not flag.startswith("-std")]
    # printf takes doubles, and there is no header with prototypes here.
    warnings = [flag for flag in WARNINGS if flag != "-Wmissing-prototypes"]
    include = f"-I{data_dir('firmware') / 'include'}"
    subprocess.run([*TOOLS, *flags, *warnings, include, *LINK, *sources, "-o", str(elf)], check=True)
    return elf


def _renamed(source: str, name: str, new: str) -> str:
    return source.replace(name, new).replace("\nvoid ", "\nstatic void ")


def _run(elf: Path, arguments: Sequence[str]) -> list[list[str]]:
    command = [*QEMU, "-semihosting", *arguments, "-kernel", str(elf)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [line.split() for line in (done.stdout + done.stderr).splitlines() if line]
