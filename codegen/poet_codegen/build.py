"""Plan -> project folder -> firmware for the board and for this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from poet_codegen.board import Board
from poet_codegen.emit.project import emit_project
from poet_codegen.folder import BuildFolder, remove, sync_tree, write_atomic
from poet_codegen.plan import Plan
from poet_codegen.platformio.firmware import BuildResult, build_firmware
from poet_codegen.platformio.host import build_host
from poet_codegen.platformio.skeleton import project_skeleton

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """What the firmware occupies; sizes.json."""

    flash_bytes: int
    flash_total_bytes: int
    ram_static_bytes: int
    """Data, arena included; without the stack."""
    ram_total_bytes: int
    stack_bytes: int
    arena_bytes: int
    largest_frame_bytes: int
    compiler: str


def write_project(plan: Plan, target: Path) -> None:
    """Write all sources. Equal files stay untouched, so that a rebuild is quick; stale ones of an older plan go."""
    files = emit_project(plan.build_input()) | project_skeleton(plan.board)
    for folder in ("src", "include", "lib", "host/src"):
        for path in sorted((target / folder).rglob("*")):
            if path.is_file() and path.relative_to(target).as_posix() not in files:
                remove(path)
    sync_tree(files, target)


def build(plan: Plan, folder: BuildFolder, progress: Progress | None = None) -> Sizes:
    """Emit the project and build both firmwares. Raises ToolError; a failed build leaves no firmware behind."""
    for stale in (
        folder.project / "firmware.elf",
        folder.project / "host" / "firmware",
        folder.sizes,
        folder.run,
    ):
        remove(stale)
    write_project(plan, folder.project)
    result = build_firmware(folder.project, plan.board, progress)
    build_host(folder.project, progress, plan.request.numerics)
    sizes = measure(result, plan.board, plan.train.schedule.arena_bytes)
    write_atomic(folder.sizes, json.dumps(vars(sizes), indent=1) + "\n")
    return sizes


def measure(result: BuildResult, board: Board, arena_bytes: int) -> Sizes:
    """Sizes from the linked file, and what the board has."""
    return Sizes(
        flash_bytes=result.footprint.flash_bytes,
        flash_total_bytes=board.flash.size_bytes,
        ram_static_bytes=result.footprint.ram_static_bytes,
        ram_total_bytes=board.ram.size_bytes,
        stack_bytes=board.stack_bytes,
        arena_bytes=arena_bytes,
        largest_frame_bytes=result.largest_frame[1],
        compiler=result.compiler,
    )
