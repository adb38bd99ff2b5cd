from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_codegen.report import FirmwareSizes, LossPoint, RunSummary
from poet_codegen.report.inputs import RunFacts
from poet_codegen.resources import checkout_root

ROOT = checkout_root()
assert ROOT is not None, "these tests run from the checkout"
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"

HOSTILE = (
    "a\"b'c*/",
    "</script><script>document.documentElement.dataset.harmed=1</script>",
    '<img src=x onerror="document.documentElement.dataset.harmed=1">',
    "../../../etc/passwd",
    "line\nbreak\r\n",
    '<b>bold</b><a href="javascript:document.documentElement.dataset.harmed=1">x</a>',
    "%{customdata[2]}{{7*7}}{% raw %}",
    "\u202eevil\u200b\ufeff",
    "&lt;script&gt;",
    "var(--ink)<!--",
    "<a href='http://evil.example/'>x</a>",
)
HOSTILE_TITLE = '</title><script>document.documentElement.dataset.harmed=1</script>"\n../'


class Probe(HTMLParser):
    """Reads a report the way a browser would: which elements and attributes there are, and what text is shown."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self.title = ""
        self._shown: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in ("script", "style", "title"):
            self._inside = tag
            if tag == "script":
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "title":
            self.title += data
        elif self._inside == "":
            self._shown.append(data)

    @property
    def text(self) -> str:
        """What is shown, every run of blanks as one."""
        return " ".join(" ".join(self._shown).replace("\u202f", " ").split())

    @property
    def figures(self) -> dict[str, Any]:
        figures = json.loads(self.scripts[0])
        assert isinstance(figures, dict)
        return figures

    @property
    def active(self) -> list[tuple[str, str, str]]:
        """Attributes that could load or run something."""
        loads = ("src", "srcset", "href", "action", "formaction", "data", "poster")
        return [a for a in self.attributes if a[1] in loads or a[1].startswith("on")]


@pytest.fixture(scope="session")
def read() -> Callable[[str], Probe]:
    return Probe


def plan_of(model: Path, ram_bytes: int, technique: str = "both", home: Home = Home.RAM) -> Plan:
    # From storage, the parameters alone take longer to page than the step to compute.
    deadline = None if technique == "keep" else 5.0 if home is Home.STORAGE else 2.0
    request = make_request(model, "qemu_netduinoplus2", ram_bytes, deadline, home, DEFAULT_RECIPE, technique, 0)
    return make_plan(request, model, threads=1, time_limit_s=20)


@pytest.fixture(scope="session")
def hostile_names() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture(scope="session")
def digits() -> Path:
    return DIGITS


@pytest.fixture(scope="session")
def tight() -> Plan:
    """A plan that recomputes and pages."""
    return plan_of(DIGITS, 24576)


@pytest.fixture(scope="session")
def keep() -> Plan:
    """A plan that keeps everything, far below its budget."""
    return plan_of(DIGITS, 131072, technique="keep")


@pytest.fixture(scope="session")
def from_storage() -> Plan:
    """A plan whose parameters live on storage."""
    return plan_of(DIGITS, 32768, home=Home.STORAGE)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The digits model with names that try to do harm."""
    model = onnx.load(DIGITS)
    renamed: dict[str, str] = {}

    def rename(name: str) -> str:
        if name and name not in renamed:
            n = len(renamed)
            renamed[name] = f"{HOSTILE[n % len(HOSTILE)]}{name}{HOSTILE[(n + 1) % len(HOSTILE)]}"
        return renamed.get(name, name)

    graph = model.graph
    graph.name = HOSTILE_TITLE
    for node in graph.node:
        node.name = rename(node.name)
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = rename(value.name)
    path = tmp_path_factory.mktemp("hostile") / "hostile.onnx"
    onnx.save(model, path)
    return plan_of(path, 24576)


@pytest.fixture(scope="session")
def losses() -> tuple[LossPoint, ...]:
    noise = random.Random(1)
    return tuple(
        LossPoint(
            step,
            step // 400,
            0.02 * 0.5 ** (step // 400),
            2.3 * math.exp(-step / 200) * noise.lognormvariate(-0.8, 1.3),
        )
        for step in range(1200)
    )


@pytest.fixture(scope="session")
def run(tight: Plan, losses: tuple[LossPoint, ...]) -> RunSummary:
    facts = RunFacts(
        steps=1200,
        seconds=61.5,
        weights_digest="ab" * 32,
        arena_high_water_bytes=tight.train.schedule.arena_bytes,
        stack_high_water_bytes=812,
        stack_bytes=4096,
        test_accuracy=0.9722,
        bit_identical=True,
    )
    return RunSummary(facts, losses)


@pytest.fixture(scope="session")
def sizes() -> FirmwareSizes:
    return FirmwareSizes(
        flash_bytes=61324,
        flash_total_bytes=1048576,
        ram_static_bytes=36344,
        ram_total_bytes=131072,
        stack_bytes=4096,
        arena_bytes=24576,
        largest_frame_bytes=184,
        compiler="arm-none-eabi-gcc 12.2.1",
    )
