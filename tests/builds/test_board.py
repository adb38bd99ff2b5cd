from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from poet_codegen.board import Board, Figure, list_boards, load_board, parse_board
from poet_codegen.cycles import cycle_table
from poet_codegen.errors import BoardError
from poet_codegen.ops.registry import Work
from poet_codegen.platformio.flags import defines, link_flags
from poet_codegen.resources import data_dir

NETDUINO = (data_dir("boards") / "qemu_netduinoplus2.toml").read_text(encoding="utf-8")


def figures(value: object, path: str = "") -> Iterator[tuple[str, Figure]]:
    if isinstance(value, Figure):
        yield path, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from figures(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from figures(item, f"{path}[{index}]")


@pytest.mark.parametrize("name", list_boards())
def test_every_figure_names_its_source(name: str) -> None:
    found = list(figures(load_board(name)))
    assert len(found) >= 8
    for path, figure in found:
        known = figure.source.startswith(("data sheet: ", "public code: ", "estimate: "))
        assert known or figure.value == 0.0, f"{path}: {figure.source}"
        assert (figure.spread is not None) or not figure.is_estimate, path


def test_netduino_is_the_part_and_not_the_emulator() -> None:
    board = load_board("qemu_netduinoplus2")
    assert (board.kind, board.port, board.cpu.core) == ("qemu", "stm32f4", "cortex-m4")
    assert board.ram.size_bytes == 128 * 1024  # QEMU 7.2 would give 192 KB
    assert board.flash.size_bytes == 1024 * 1024
    assert load_board("disco_f407vg").kind == "serial"


def test_energy_per_cycle_is_power_over_clock() -> None:
    board = load_board("qemu_netduinoplus2")
    assert board.energy_per_cycle_j == pytest.approx(0.040 * 3.3 / 168e6)
    assert board.seconds_per_cycle == pytest.approx(1 / 168e6)


def test_page_costs_are_latency_plus_rate_times_both_powers() -> None:
    board = load_board("qemu_netduinoplus2")
    read, write = board.page_in_cost(512), board.page_out_cost(512)
    assert read.time_s == pytest.approx(0.109e-3 + 512 / 4.6165e6)
    assert read.energy_j == pytest.approx(read.time_s * (0.33 + 0.132))
    assert read.wear_bytes == 0.0
    assert write.time_s == pytest.approx(0.113e-3 + 512 / 4.44e6)
    assert write.energy_j == pytest.approx(write.time_s * (0.33 + 0.132))
    assert write.wear_bytes == 512.0
    # POET's own arithmetic for the device alone: 72.6 µJ and 75.3 µJ for 512 bytes.
    assert read.time_s * 0.33 == pytest.approx(72.6e-6, rel=1e-3)
    assert write.time_s * 0.33 == pytest.approx(75.3e-6, rel=2e-3)


def test_erasing_storage_charges_whole_blocks() -> None:
    erase = """
[storage_devices.erase]
block_bytes = 4096
time_s = { value = 0.048, source = "estimate: for this test", spread = 0.5 }
power_w = { value = 0.02, source = "estimate: for this test", spread = 0.5 }
"""
    plain = load_board("qemu_netduinoplus2")
    board = parse_board(NETDUINO.replace("[platformio]", erase + "\n[platformio]"), "test")
    cost, without = board.page_out_cost(5000), plain.page_out_cost(5000)
    assert cost.wear_bytes == 8192.0
    assert cost.time_s - without.time_s == pytest.approx(2 * 0.048)
    assert cost.energy_j - without.energy_j == pytest.approx(2 * 0.048 * (0.02 + 0.132))
    assert board.page_in_cost(5000) == plain.page_in_cost(5000)


def test_a_board_pages_to_the_storage_device_that_is_chosen() -> None:
    board = load_board("qemu_mps2_an386")
    chosen = load_board("qemu_mps2_an386", storage="memory_mapped")
    assert (board.storage.driver, board.storage_origin()) == ("semihosting", None)
    assert (chosen.storage.driver, chosen.storage_origin()) == ("memory_mapped", 0x2100_0000)
    assert {storage.driver for storage in chosen.storage_devices} == {"memory_mapped", "semihosting"}
    assert "-Wl,--defsym=poet_storage_memory=0x21000000" in link_flags(chosen)
    assert not any("poet_storage_memory" in flag for flag in link_flags(board))
    with pytest.raises(BoardError, match=r"no storage device 'floppy'; it has semihosting, memory_mapped"):
        load_board("qemu_mps2_an386", storage="floppy")


def test_a_storage_device_says_what_its_driver_is_compiled_with() -> None:
    assert defines(load_board("qemu_emcraft_sf2"))["POET_NOR_JEDEC_ID"] == f"{0x012018}u"


def test_boards_for_planning_only_have_the_papers_constants() -> None:
    for name, flops_per_s, power_w in (("poet_mkr1000", 2000 / 0.012, 0.066), ("poet_nrf52840_sd", 6.37e6, 0.01098)):
        board = load_board(name)
        cycles = cycle_table(board.cpu.cycle_table).cycles(Work("conv2d", macs=1000))
        assert 2000 / (cycles * board.seconds_per_cycle) == pytest.approx(flops_per_s, rel=0.01)
        assert board.power.run_w.value == pytest.approx(power_w, rel=0.01)
        assert board.kind == "plan"
        with pytest.raises(BoardError, match=f"{name} .*planning only.*'poet boards'"):
            _ = board.firmware


def test_a_board_limited_to_less_ram() -> None:
    whole = load_board("qemu_mps2_an386")
    limited = load_board("qemu_mps2_an386", 128 * 1024)
    assert (whole.ram.size_bytes, limited.ram.size_bytes) == (4 << 20, 128 << 10)
    assert limited.flash == whole.flash
    for size_bytes in (0, whole.stack_bytes, whole.ram.size_bytes + 1):
        with pytest.raises(BoardError, match=f"limited to {size_bytes} bytes.*has 4194304.*4096 are for the stack"):
            whole.with_ram(size_bytes)


@pytest.mark.parametrize(
    ("wanted", "offered"), [("netduinoplus2", "qemu_netduinoplus2"), ("DISCO_F407", "disco_f407vg")]
)
def test_unknown_board_names_the_nearest(wanted: str, offered: str) -> None:
    with pytest.raises(BoardError, match=f"Unknown board '{wanted}'.*'{offered}'"):
        load_board(wanted)


@pytest.mark.parametrize("name", ["", "../boards/disco_f407vg", "/", "disco_f407vg\n", "qemu_netduinoplus2/"])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(BoardError, match="Unknown board"):
        load_board(name)


def test_own_board_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(NETDUINO.replace('"qemu_netduinoplus2"', '"mine"', 1), encoding="utf-8")
    assert load_board(str(path)).name == "mine"
    with pytest.raises(BoardError, match="cannot be read"):
        load_board(str(tmp_path / "absent.toml"))
    other = tmp_path / "other.toml"
    other.write_text(NETDUINO, encoding="utf-8")
    with pytest.raises(BoardError, match="the file's name says 'other'"):
        load_board(str(other))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[cpu]", "[cpu", "not valid TOML.*line"),
        ("clock_hz = 168_000_000", "", "field 'cpu.clock_hz'"),
        ("clock_hz = 168_000_000", "clock_hz = -1", "field 'cpu.clock_hz'"),
        ("stack_bytes = 4096", "stack_bytes = 4095", "multiple of 8"),
        ("stack_bytes = 4096", "stack_bytes = 4096\ncolour = 'red'", "field 'colour'"),
        ("value = 0.132\n", "", "field 'power.run_w.value'"),
        ("value = 0.132\n", "value = nan\n", "field 'power.run_w.value'"),
        (
            'source = "data sheet: ST DS8626 Rev 12, table 20',
            'source = "estimate: guess',
            "power.run_w.*spread",
        ),
        ("value = 4.6165e6", "value = 0", "read_bytes_per_s is 0"),
        ('name = "flash"', 'name = "rom"', "exactly one region named 'flash'"),
        ("origin = 0x2000_0000", "origin = 0x0800_1000", "overlap"),
        ('core = "cortex-m4"', 'core = "cortex-m4 -fplugin=x"', "field 'cpu.core'"),
        ("POET_QEMU = 1", "POET_QEMU = 'a b'", "field 'defines"),
        ('platform = "ststm32"', 'platform = "avr"', "field 'platformio.platform'"),
        ("[uart]", "[[uart_]]", "field 'uart_'"),
        ('models = "SD', 'memory = "psram"\nmodels = "SD', "'semihosting' needs a memory region 'psram'"),
    ],
)
def test_malformed_file_names_the_field(old: str, new: str, message: str) -> None:
    assert old in NETDUINO
    with pytest.raises(BoardError, match=message) as caught:
        parse_board(NETDUINO.replace(old, new, 1), "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")


def test_every_board_can_be_skeletoned(root: Path) -> None:
    for name in list_boards():
        board: Board = load_board(name)
        for storage in board.storage_devices:
            assert (root / "firmware/storage" / f"{storage.driver}.c").is_file()
        if board.port is not None:
            assert (root / "firmware/port" / board.port / "port.toml").is_file()
