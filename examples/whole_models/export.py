"""Write the nets of `make whole-models` as ONNX files, each with how it trains: NAME.onnx and NAME.json.

    python examples/whole_models/export.py FOLDER [NET ...]

Files that are there already stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nets
import pytorch
import torch
from cases import CASES


def main() -> None:
    """Export what is asked, by PyTorch's older exporter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.nets or CASES:
        case, recipe = CASES[name], options.folder / f"{name}.json"
        if recipe.exists():
            continue
        begun = pytorch.start(case)
        sample = torch.from_numpy(begun.x[: case.batch])
        nets.export(begun.net, sample, nets.EXPORTERS[0], options.folder / f"{name}.onnx")
        batch_norm = None if case.batch_norm is None else case.batch_norm.value
        how = {"title": case.title, "train": case.train, "loss": case.target.value, "batch_norm": batch_norm}
        recipe.write_text(json.dumps(how | {"home": case.home.value}, indent=1) + "\n")


if __name__ == "__main__":
    main()
