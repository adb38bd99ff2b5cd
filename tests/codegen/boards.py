"""Boards that differ from those in boards/ by what a test is about."""

from __future__ import annotations

from pathlib import Path

from poet_codegen.resources import data_dir


def with_dma(board: str, folder: Path) -> str:
    """The path of a board file: `board` as if its first storage device brought what is read while the core computes."""
    text = (data_dir("boards") / f"{board}.toml").read_text(encoding="utf-8")
    text = text.replace(f'name = "{board}"', 'name = "with_dma"', 1)
    path = folder / "with_dma.toml"
    path.write_text(text.replace("[[storage_devices]]\n", '[[storage_devices]]\noverlaps = "as if by DMA"\n', 1))
    return str(path)
