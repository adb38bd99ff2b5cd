"""Build a planned folder's project for this machine with sanitizers: python -m benchmarks.sanitized_host FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from poet_codegen.build import write_project
from poet_codegen.folder import BuildFolder
from poet_codegen.plan import load_plan
from poet_codegen.platformio.host import build_host

SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def main() -> None:
    """Build it where `poet build` would."""
    folder = BuildFolder(Path(sys.argv[1]))
    write_project(load_plan(folder), folder.project)
    numerics = folder.read_request().numerics
    print(build_host(folder.project, numerics=numerics, more_flags=SANITIZERS))


if __name__ == "__main__":
    main()
