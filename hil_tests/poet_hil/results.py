"""Files that a run leaves: whole under their names, or marked as partial."""

from __future__ import annotations

import csv
import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from poet_hil.errors import SessionError
from poet_hil.manifest import Manifest

LOSSES_NAME = "losses.csv"
PARTIAL_LOSSES_NAME = "losses.partial.csv"
WEIGHTS_NAME = "weights.npz"
COLUMNS = ("step", "epoch", "learning_rate", "loss", "loss_bits", "ticks")

Row = Sequence[str]


class LossLog:
    """Losses of a run, a row a step: losses.partial.csv while it goes on, losses.csv when it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOSSES_NAME
        self.partial_path = folder / PARTIAL_LOSSES_NAME
        self._file: IO[str] | None = None

    def rows_before(self, step: int) -> list[Row]:
        """Rows of steps [0, step), which a run that resumes at `step` keeps. SessionError when some are missing."""
        for path in (self.partial_path, self.path):
            rows = _read(path)[:step]
            if [row[0] for row in rows] == [str(index) for index in range(step)]:
                return rows
        raise SessionError(
            f"The device has trained {step} steps, but {self.folder} has no losses of all of them, so that "
            f"the run cannot be resumed as one. Start anew with `poet flash` and `poet train`."
        )

    @contextmanager
    def writing(self, kept: Sequence[Row]) -> Iterator[None]:
        """Start the partial file with `kept` rows; append() adds to it. Results of an earlier run are removed.

        They are not of the device's weights any more.
        """
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (LOSSES_NAME, WEIGHTS_NAME):
                (self.folder / name).unlink(missing_ok=True)
            self._file = self.partial_path.open("w", encoding="utf-8", newline="")
        try:
            self.append(COLUMNS, *kept)
            yield
        finally:
            self._file.close()
            self._file = None

    def append(self, *rows: Row) -> None:
        """Add rows and hand them to the operating system, so that they survive the end of this process."""
        assert self._file is not None
        with writable(self.folder):
            csv.writer(self._file, lineterminator="\n").writerows(rows)
            self._file.flush()

    def rewind(self, step: int) -> None:
        """Forget the rows from a step on: the device goes on from there."""
        assert self._file is not None
        kept = self.rows_before(step)
        with writable(self.folder):
            self._file.seek(0)
            self._file.truncate()
        self.append(COLUMNS, *kept)

    def complete(self) -> list[str]:
        """Give the partial file its final name; returns the losses' bits in hex, of every step."""
        bits = loss_bits(self.partial_path)
        with writable(self.folder):
            self.partial_path.replace(self.path)
        return bits


def loss_bits(path: Path) -> list[str]:
    """The losses' float32 bits in hex, of every step in a table that LossLog wrote."""
    return [row[COLUMNS.index("loss_bits")] for row in _read(path)]


def _read(path: Path) -> list[Row]:
    """Rows that are whole; none when there is no file that can be read."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            table = list(csv.reader(file))
    except (OSError, csv.Error):
        return []
    return [row for row in table[1:] if len(row) == len(COLUMNS)]


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into a SessionError."""
    try:
        yield
    except OSError as error:
        raise SessionError(
            f"Results cannot be written to {folder} ({error.strerror or error}). Free space or give write "
            f"access, and run the command again."
        ) from error


def weights_digest(weights: Mapping[str, NDArray[np.float32]], manifest: Manifest) -> str:
    """SHA-256 over all parameters' little-endian float32 bits, in the manifest's order."""
    digest = hashlib.sha256()
    for param in manifest.params:
        digest.update(np.ascontiguousarray(weights[param.name], dtype="<f4").tobytes())
    return digest.hexdigest()


def save_weights(path: Path, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Write an npz file whole or not at all; the same weights give the same bytes.

    Its keys are the parameters' names with all but letters, digits and _.-~ as %XX, since a model may name a
    parameter like a path (or like an argument of numpy.savez) and people unpack such files.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writable(path.parent):
        try:
            with temporary.open("wb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    for name, value in weights.items():
                        entry = zipfile.ZipInfo(quote(name, safe="") + ".npy")
                        with archive.open(entry, "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, value, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def load_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read what save_weights() wrote."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {unquote(key): archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise SessionError(
            f"The weights {path} cannot be read ({error}). Run `poet train`, which writes them."
        ) from error
