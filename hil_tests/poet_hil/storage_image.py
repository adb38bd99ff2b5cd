"""The file that stands for a storage device: made with what the firmware expects to find there."""

from __future__ import annotations

from pathlib import Path

from poet_hil.manifest import Build

IMAGE_NAME = "poet_storage.bin"
_START_BYTES = 16
"""Of the initial weights in the image: written last, so that they are there when the start is."""
_CHUNK_BYTES = 1 << 20


def add_initial_weights(build: Build, folder: Path) -> None:
    """Put a build's initial weights into the image in `folder`, unless something was written there already."""
    initial = build.manifest.initial
    if initial is None:
        return
    image = folder / IMAGE_NAME
    with (
        (build.manifest_path.parent / initial.file).open("rb") as weights,
        image.open("r+b" if image.exists() else "w+b") as file,
    ):
        file.seek(initial.address)
        if file.read(_START_BYTES).strip(b"\0").strip(b"\xff"):
            return
        start = weights.read(_START_BYTES)
        file.seek(initial.address + len(start))
        while chunk := weights.read(_CHUNK_BYTES):
            file.write(chunk)
        file.flush()
        file.seek(initial.address)
        file.write(start)


def forget(folder: Path) -> None:
    """Remove the image in `folder`, with all checkpoints."""
    (folder / IMAGE_NAME).unlink(missing_ok=True)
