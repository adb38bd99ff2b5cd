"""The recipe: how a model is trained, as far as that is fixed when it is planned."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """What `poet plan` was told about training, but the learning rate: the host gives that with each step."""

    train: str = "all"
    """Which parameters learn: a pattern of selection.py."""


DEFAULT_RECIPE = Recipe()
