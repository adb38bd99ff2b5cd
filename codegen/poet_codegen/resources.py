"""Where the data folders are: boards, templates and firmware.

A checkout has them at its root; a wheel carries copies in poet_codegen/_data. The checkout wins, because an
editable install copies them too, and those copies go stale with the first edit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from poet_codegen.errors import ToolError

DataFolder = Literal["boards", "templates", "firmware"]

_PACKAGE = Path(__file__).resolve().parent


def checkout_root() -> Path | None:
    """Root of the source checkout this package runs from, or None when it runs from a wheel."""
    root = _PACKAGE.parent.parent
    return root if (root / "pyproject.toml").is_file() and _PACKAGE.parent.name == "codegen" else None


def data_dir(name: DataFolder) -> Path:
    """The folder of that name in the checkout, else in the installed package.

    Raises ToolError when neither has it.
    """
    root = checkout_root()
    candidates = ([root / name] if root else []) + [_PACKAGE / "_data" / name]
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = " and ".join(str(folder) for folder in candidates)
    raise ToolError(
        f"poet-mcu's own folder '{name}' is missing (looked in {looked}). The installation is not whole: "
        "install the package again, for instance with 'pip install --force-reinstall poet-mcu'."
    )
