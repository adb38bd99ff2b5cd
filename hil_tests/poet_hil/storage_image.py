"""The file that stands for a storage device: made with what the firmware expects to find there."""

from __future__ import annotations

from pathlib import Path

from poet_hil.manifest import Build, Initial

IMAGE_NAME = "poet_storage.bin"
_START_BYTES = 16
"""Of the initial weights in the image: written last, so that they are there when the start is."""
_CHUNK_BYTES = 1 << 20


def add_initial_weights(build: Build, folder: Path) -> None:
    """Put a build's initial and frozen weights into the image in `folder`, unless they are there already."""
    for part in (build.manifest.frozen, build.manifest.initial):
        if part is not None:
            _add(build, folder, part, replace=part is build.manifest.frozen)


def _add(build: Build, folder: Path, initial: Initial, replace: bool) -> None:
    """`replace`: what else was written there is not to be kept."""
    image = folder / IMAGE_NAME
    with (
        (build.manifest_path.parent / initial.file).open("rb") as weights,
        image.open("r+b" if image.exists() else "w+b") as file,
    ):
        file.seek(initial.address)
        known = file.read(_START_BYTES)
        start = weights.read(_START_BYTES)
        if known == start or (known.strip(b"\0").strip(b"\xff") and not replace):
            return
        file.seek(initial.address + len(start))
        while chunk := weights.read(_CHUNK_BYTES):
            file.write(chunk)
        file.flush()
        file.seek(initial.address)
        file.write(start)


def forget(folder: Path) -> None:
    """Remove the image in `folder`, with all checkpoints."""
    (folder / IMAGE_NAME).unlink(missing_ok=True)
