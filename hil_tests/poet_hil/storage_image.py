"""The file that stands for a storage device: made with what the firmware expects to find there."""

from __future__ import annotations

from pathlib import Path

from poet_hil.manifest import Build

IMAGE_NAME = "poet_storage.bin"
_MAGIC_BYTES = 4
"""At the start of every checkpoint."""


def add_initial_weights(build: Build, folder: Path) -> None:
    """Put a build's initial weights into the image in `folder`, unless it holds a checkpoint at that place already."""
    initial = build.manifest.initial
    if initial is None:
        return
    image = folder / IMAGE_NAME
    data = (build.manifest_path.parent / initial.file).read_bytes()
    with image.open("r+b" if image.exists() else "w+b") as file:
        file.seek(initial.address)
        if file.read(_MAGIC_BYTES) != data[:_MAGIC_BYTES]:
            file.seek(initial.address)
            file.write(data)


def forget(folder: Path) -> None:
    """Remove the image in `folder`, with all checkpoints."""
    (folder / IMAGE_NAME).unlink(missing_ok=True)
