"""The profiler against counts and cycles that were worked out by hand from Arm's manual."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from poet_hil.errors import TargetError
from poet_hil.profiler.instructions import Image, Instruction, Kind
from poet_hil.profiler.plugin import build_plugin, plugin_arguments, read_regions
from poet_hil.profiler.timing import Pricer, SingleIssue, timing_table

from tests.codegen.kernel_program import ENABLE_FPU

FPU = ("-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")


def assemble(folder: Path, text: str, *flags: str, core: str = "cortex-m4") -> Path:
    source, elf = folder / "code.s", folder / "code.elf"
    source.write_text(f".syntax unified\n.thumb\n{text}")
    compiler = ["arm-none-eabi-gcc", f"-mcpu={core}", "-mthumb", *(FPU if core == "cortex-m4" else ()), "-nostdlib"]
    subprocess.run([*compiler, *flags, str(source), "-o", str(elf)], check=True)
    return elf


def decode(folder: Path, text: str, core: str = "cortex-m4") -> tuple[Instruction, ...]:
    elf = assemble(folder, f".text\n.global start\n.thumb_func\nstart:\n{text}\n", "-Wl,-e,start", core=core)
    with elf.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".text")
        first, size = section["sh_addr"], section["sh_size"]
    return Image(elf).decode(first, first + size)


@pytest.mark.parametrize(
    ("code", "cycles", "why"),
    [
        ("vmul.f32 s0, s1, s2", 1, "one a cycle"),
        ("vmul.f32 s0, s1, s2\nvadd.f32 s3, s3, s0", 3, "the sum waits a cycle for the product"),
        ("vmul.f32 s0, s1, s2\nvmul.f32 s4, s1, s2\nvadd.f32 s3, s3, s0", 3, "nobody waits"),
        ("vfma.f32 s3, s1, s2\nvfma.f32 s3, s4, s5", 6, "the register added to is read late"),
        ("vfma.f32 s3, s1, s2\nvfma.f32 s6, s3, s5", 7, "a factor is not"),
        ("vadd.f32 s0, s1, s2\nvstr s0, [r0]", 4, "1 + 1 wait + 2"),
        ("vldr s0, [r0]\nvldr s1, [r0, #4]", 4, "2 each"),
        ("vldr d1, [r0]", 3, "two registers"),
        ("vldmia r0!, {s0-s7}", 9, "1 + N"),
        ("vstmia r0!, {s0-s7}", 9, "1 + N"),
        ("ldr r1, [r0]\nldr r2, [r0, #4]\nldr r3, [r0, #8]", 4, "address phases overlap"),
        ("ldr r1, [r0]\nldr r2, [r1]", 4, "an address that was just loaded"),
        ("str r1, [r0, #4]", 1, "the write buffer takes it"),
        ("str r1, [r0, r2]", 2, "not with an offset in a register"),
        ("push {r4-r7, lr}\npop {r4-r7, lr}", 12, "1 + N each"),
        ("vdiv.f32 s0, s1, s2\nvsqrt.f32 s3, s4", 28, "14 each"),
        ("add r0, r0, #4\ncmp r0, r1\nit eq\nmoveq r2, #0", 4, "one each"),
        ("ldrd r2, r3, [r0]", 3, "1 + 2"),
    ],
)
def test_m4_cycles_are_those_of_the_manual(tmp_path: Path, code: str, cycles: int, why: str) -> None:
    core = timing_table("cortex-m4")
    assert isinstance(core, SingleIssue)
    assert core.segment_cycles(decode(tmp_path, code)) == cycles, why


@pytest.mark.parametrize(
    ("core", "code", "cycles", "why"),
    [
        ("cortex-m3", "mul r0, r1, r2\nmla r0, r1, r2, r3\nmls r0, r1, r2, r3", 5, "1, 2 and 2"),
        ("cortex-m3", "umull r0, r1, r2, r3\nsmlal r0, r1, r2, r3", 12, "5 and 7 with operands of all bits"),
        ("cortex-m3", "ldr r1, [r0]\nldr r2, [r0, #4]\nldr r3, [r0, #8]", 4, "loads are pipelined"),
        ("cortex-m3", "ldr r1, [r0]\nldr r2, [r1]", 4, "an address that was just loaded"),
        ("cortex-m3", "str r1, [r0, #4]\nadd r2, r2, #1", 2, "the write buffer takes it"),
        ("cortex-m3", "push {r4-r7, lr}\npop {r4-r7, pc}", 12, "1 + N each, P comes with the branch"),
        ("cortex-m3", "udiv r0, r1, r2\nadd r0, r0, r1, lsl #3", 8, "2 to 12, and 1"),
        ("cortex-m3", "bl start\nbeq start", 2, "1 each, P where taken"),
        ("cortex-m0", "adds r0, r0, #1\nmuls r0, r1, r0\nlsrs r0, r0, #3", 3, "one each"),
        ("cortex-m0", "ldr r1, [r0]\nldr r2, [r0, #4]\nldrh r3, [r0, #8]", 6, "nothing overlaps"),
        ("cortex-m0", "str r1, [r0, #4]\nstrb r1, [r0, r2]", 4, "2 each"),
        ("cortex-m0", "ldmia r0!, {r1-r4}\nstmia r0!, {r1-r4}\npush {r4, lr}", 13, "1 + N each"),
        ("cortex-m0", "pop {r4-r6}\npop {r4-r6, pc}", 10, "1 + N, and 4 + N of which a taken branch's refill is 2"),
        ("cortex-m0", "bl start\nbx lr\nbeq start", 4, "4, 3 and 3 where taken, of which the refill is 2 each"),
        ("cortex-m0", "mrs r0, primask\ndsb", 8, "4 each"),
    ],
)
def test_m3_and_m0_cycles_are_those_of_their_manuals(
    tmp_path: Path, core: str, code: str, cycles: int, why: str
) -> None:
    table = timing_table(core)
    assert isinstance(table, SingleIssue)
    assert table.segment_cycles(decode(tmp_path, code, core)) == cycles, why


@pytest.mark.parametrize(
    ("code", "cycles"),
    [
        ("add r0, r0, #1\nadd r1, r1, #1\nadd r2, r2, #1\nadd r3, r3, #1", 2),
        ("add r0, r0, #1\nadd r0, r0, #1\nadd r0, r0, #1", 3),
        ("vfma.f32 s0, s8, s9\nvfma.f32 s1, s8, s9\nvfma.f32 s2, s8, s9\nvfma.f32 s3, s8, s9", 4),
        ("vfma.f32 s0, s8, s9\nvfma.f32 s0, s10, s11", 4),
        ("vmul.f32 s0, s8, s9\nvmul.f32 s1, s0, s9", 4),
    ],
)
def test_m7_pairs_what_does_not_wait(tmp_path: Path, code: str, cycles: int) -> None:
    core = timing_table("cortex-m7")
    assert core is not None
    assert core.segment_cycles(decode(tmp_path, code)) == cycles


def test_lists_of_registers_are_read_and_written(tmp_path: Path) -> None:
    load, store, push = decode(tmp_path, "vldmia r0!, {s4-s5}\nvstmia r1, {s6-s7}\nvpush {d8}")
    assert load.writes == {"r0", "s4", "s5"} and load.reads == {"r0"}
    assert store.reads == {"r1", "s6", "s7"} and not store.writes
    assert (load.registers, store.registers, push.registers) == (2, 2, 2)


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("cortex-m4", set()),
        ("cortex-m3", {kind for kind in Kind if kind.value.startswith("fp_")}),
        (
            "cortex-m0",
            {kind for kind in Kind if kind.value.startswith(("fp_", "multiply_"))}
            | {Kind.DIVIDE, Kind.IT, Kind.TABLE_BRANCH},
        ),
    ],
)
def test_every_class_that_a_core_has_is_in_its_table(name: str, lacks: set[Kind]) -> None:
    core = timing_table(name)
    assert isinstance(core, SingleIssue)
    transfers = {kind for kind in Kind if kind.value.endswith("_many")} | {Kind.FP_LOAD, Kind.FP_STORE}
    assert set(core.cycles) == set(Kind) - transfers - lacks


def test_an_instruction_of_another_core_is_refused(tmp_path: Path) -> None:
    core = timing_table("cortex-m0")
    assert core is not None
    with pytest.raises(TargetError, match="no row for divide"):
        core.segment_cycles(decode(tmp_path, "udiv r0, r1, r2", "cortex-m3"))


def test_a_core_without_a_table_is_counted_only() -> None:
    assert timing_table("cortex-m33") is None


# A loop of 5 instructions that runs 1000 times, then a call that runs twice; ends through semihosting.
PROGRAM = f"""
.section .vectors, "a"
.word 0x20010000
.word reset
.text
.global reset
.thumb_func
reset:
{ENABLE_FPU}    movw r2, #1000
    vmov.f32 s0, #1.0
    vmov.f32 s1, #1.0
    .inst.w 0xf3af80a0
loop:
    vmul.f32 s2, s0, s1
    nop
    vadd.f32 s3, s3, s2
    subs r2, r2, #1
    bne loop
    .inst.w 0xf3af80a1
    .inst.w 0xf3af80a0
    bl twice
    bl twice
    .inst.w 0xf3af80a1
    movs r0, #0x18
    movw r1, #0x0026
    movt r1, #0x0002
    bkpt 0xab
    b .
.thumb_func
twice:
    add r3, r3, #1
    bx lr
"""


def test_the_plugin_counts_what_runs(tmp_path: Path) -> None:
    layout = ["-Wl,--section-start=.vectors=0", "-Wl,-Ttext=0x100", "-Wl,-e,reset"]
    elf = assemble(tmp_path, PROGRAM, *layout)
    output = tmp_path / "profile.txt"
    arguments = plugin_arguments(build_plugin(tmp_path), output)
    machine = ["qemu-system-arm", "-machine", "mps2-an386", "-display", "none", "-serial", "none", "-monitor", "none"]
    command = [*machine, "-semihosting", *arguments, "-kernel", str(elf)]
    subprocess.run(command, check=True, timeout=600)

    loop, calls = read_regions(output)
    pricer = Pricer(Image(elf), timing_table("cortex-m4"))
    priced = pricer.price(loop)
    assert priced.instructions == 5 * 1000
    # VMUL, NOP, VADD, SUBS, BNE: one each, and 2 to refill for all rounds but the last.
    assert priced.cycles == 5 * 1000 + 2 * 999
    assert priced.by_kind[Kind.FP_MULTIPLY] == priced.by_kind[Kind.FP_ADD] == priced.by_kind[Kind.BRANCH] == 1000
    assert priced.hot_bytes <= 32

    priced = pricer.price(calls)
    assert priced.instructions == 6
    assert priced.cycles == 6 + 2 * 4
    counted = Pricer(Image(elf), None).price(calls)
    assert (counted.instructions, counted.cycles) == (6, None)


# A region of three instructions between the short markers of ARMv6-M, which lacks the long ones.
SHORT_PROGRAM = """
.section .vectors, "a"
.word 0x20002000
.word reset
.text
.global reset
.thumb_func
reset:
    movs r2, #10
    .inst.n 0xbfa0
loop:
    adds r3, r3, #1
    subs r2, r2, #1
    bne loop
    .inst.n 0xbfb0
    movs r0, #0x18
    ldr r1, =0x20026
    bkpt 0xab
    b .
"""


def test_armv6m_has_markers_of_its_own(tmp_path: Path) -> None:
    layout = ["-Wl,--section-start=.vectors=0", "-Wl,-Ttext=0x100", "-Wl,-e,reset"]
    elf = assemble(tmp_path, SHORT_PROGRAM, *layout, core="cortex-m0")
    output = tmp_path / "profile.txt"
    machine = ["qemu-system-arm", "-machine", "microbit", "-display", "none", "-serial", "none", "-monitor", "none"]
    plugin = plugin_arguments(build_plugin(tmp_path), output)
    subprocess.run([*machine, "-semihosting", *plugin, "-kernel", str(elf)], check=True, timeout=600)
    (loop,) = read_regions(output)
    priced = Pricer(Image(elf), timing_table("cortex-m0")).price(loop)
    # ADDS, SUBS and BNE: one each, and 2 to refill for all rounds but the last.
    assert (priced.instructions, priced.cycles) == (30, 30 + 2 * 9)


def test_the_plugin_is_compiled_once(tmp_path: Path) -> None:
    library = build_plugin(tmp_path)
    made = library.stat().st_mtime_ns
    assert build_plugin(tmp_path) == library and library.stat().st_mtime_ns == made


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "profile.txt"
    output.write_text("R\nS 100 104 1\n")
    with pytest.raises(TargetError, match="line 2"):
        list(read_regions(output))


def test_code_of_another_build_is_refused(tmp_path: Path) -> None:
    elf = assemble(tmp_path, ".text\n.global start\nstart: nop\n", "-Wl,-e,start")
    with pytest.raises(TargetError, match="another build"):
        Image(elf).decode(0x100000, 0x100010)
