"""Build the digits project for every board and say what it takes; the README's table is written from it.

All boards get the same schedule, which keeps everything: what differs is the board. Those that have less RAM than that
takes get a model of 6 channels in place of 12, in 8 KiB. Run as `make boards`.
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
import time
from pathlib import Path

import onnx
from poet_codegen.board import Board, list_boards, load_board
from poet_codegen.build import Sizes, build
from poet_codegen.folder import BuildFolder
from poet_codegen.lower import Home
from poet_codegen.plan import make_plan, make_request, save_plan
from poet_codegen.recipe import Recipe
from readme import line, markdown, write_table

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
RAM_BYTES = 36 * 1024
SMALL_CHANNELS, SMALL_RAM_BYTES = 6, 8 * 1024
COLUMNS = ("board", "core", "flash", "RAM: arena + other data", "stack, largest frame")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("boards", nargs="*", help="names; all without")
    names = arguments.parse_args().boards
    boards = [load_board(name) for name in names or list_boards()]
    rows = [_row(board) for board in boards if board.kind != "plan"]
    if not names:
        write_table("boards", markdown(COLUMNS, rows))
        print("README.md has the table.")


def _row(board: Board) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="poet-boards-") as path:
        folder = BuildFolder(Path(path) / "build")
        small = board.ram.size_bytes < RAM_BYTES + board.stack_bytes
        model = DIGITS / "digits.onnx"
        if small:
            model = Path(path) / "digits.onnx"
            onnx.save(runpy.run_path(str(DIGITS / "make_model.py"))["build_model"](SMALL_CHANNELS), model)
        ram_bytes, technique = (SMALL_RAM_BYTES, "both") if small else (RAM_BYTES, "keep")
        request = make_request(model, board.name, ram_bytes, None, Home.RAM, Recipe("all"), technique, 0)
        plan = make_plan(request, model, threads=1, time_limit_s=60.0)
        save_plan(plan, model, folder)
        start = time.perf_counter()
        sizes = build(plan, folder)
        seconds = time.perf_counter() - start
        log = (folder.project / "build.log").read_text(encoding="utf-8")
        if "warning" in log.lower():
            raise SystemExit(f"{board.name} builds with warnings:\n{log}")
    row = _cells(board, sizes)
    print(f"{line(row).rstrip()} {seconds:.1f} s", flush=True)
    return row


def _cells(board: Board, sizes: Sizes) -> tuple[str, ...]:
    core = f"{board.cpu.core.removeprefix('cortex-').upper()}, {board.cpu.clock_hz // 1_000_000} MHz"
    flash = f"{sizes.flash_bytes:,} of {sizes.flash_total_bytes // 1024} KiB"
    other = sizes.ram_static_bytes - sizes.arena_bytes
    ram = f"{sizes.arena_bytes:,} + {other:,} of {sizes.ram_total_bytes // 1024} KiB"
    stack = f"{sizes.stack_bytes:,}, {sizes.largest_frame_bytes}"
    return f"`{board.name}`", core, flash, ram, stack


if __name__ == "__main__":
    main()
