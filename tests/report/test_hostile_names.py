"""Names from a model are shown, and do nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from poet_codegen.plan import Plan
from poet_codegen.report import FirmwareSizes, RunSummary, render_report
from poet_codegen.report.figures import to_script_json
from poet_codegen.report.inputs import RunFacts
from poet_codegen.report.text import plotly_text, shown

Read = Callable[[str], Any]


@pytest.fixture(scope="module")
def html(hostile: Plan, run: RunSummary) -> str:
    return render_report(hostile, run, None)


def test_elements_are_those_of_a_plain_model(html: str, tight: Plan, run: RunSummary, read: Read) -> None:
    page, plain = read(html), read(render_report(tight, run, None))
    assert set(page.tags) == set(plain.tags)
    for tag in ("script", "style", "title", "a", "b", "meta", "section"):
        assert page.tags.count(tag) == plain.tags.count(tag), tag
    assert {(tag, name) for tag, name, _ in page.active} == {("a", "href")}
    assert all(value.startswith("#") for _, _, value in page.active)


def test_scripts_are_ours_alone(html: str, tight: Plan, run: RunSummary, read: Read) -> None:
    assert read(html).scripts[1:] == read(render_report(tight, run, None)).scripts[1:]
    assert re.search(r"[<>&]", read(html).scripts[0]) is None


def test_names_are_shown_as_they_are(html: str, hostile: Plan, read: Read) -> None:
    text = read(html).text
    assert shown(hostile.train.graph.name) in text
    for step in hostile.train.lowered.nodes:
        assert " ".join(shown(step.label).split()) in text


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def test_plotly_gets_no_tags_but_ours(html: str, read: Read) -> None:
    ours = re.compile(r"<br>|</?b>|<extra></extra>")
    found = 0
    for text in strings(read(html).figures):
        assert "<" not in ours.sub("", text), text
        found += "&lt;" in text
    assert found > 20, "the hostile names are in the figures"
    for trace in read(html).figures["memory-map"]["data"]:
        for text in strings([trace.get("customdata", []), trace.get("text", [])]):
            assert "<" not in text.replace("<br>", ""), text
        assert trace.get("hovertemplate", "").count("window") == 0


@pytest.mark.parametrize("end", ["</script>", "<!--", "</SCRIPT ", "<script", "]]>"])
def test_json_in_a_script_element_cannot_end_it(end: str, read: Read) -> None:
    text = to_script_json({"figure": {"name": end}})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"figure": {"name": end}}


def test_shown_names_are_one_printable_line(hostile_names: tuple[str, ...]) -> None:
    for name in (*hostile_names, "a\u2028b\u2029c", "\x00\x1b[31m", "\ud800", "", "x" * 500, "\u00a0 \u3000"):
        text = shown(name)
        assert text and text.isprintable() and len(text) <= 72
        text.encode("utf-8")
        assert "<" not in plotly_text(name) and ">" not in plotly_text(name)
    assert shown("a\nb") == r"a\nb" and shown("\u202eab") == r"\u202eab"
    assert shown("plain name/with.dots:0") == "plain name/with.dots:0"
    assert shown("начало слой 层") == "начало слой 层"
    assert shown("a" * 60 + "b" * 60).startswith("aaa") and shown("a" * 60 + "b" * 60).endswith("bbb")


def test_text_of_run_and_sizes_is_escaped(tight: Plan, read: Read) -> None:
    bad = '"><img src=x onerror=alert(1)>'
    html = render_report(tight, RunSummary(RunFacts(weights_digest=bad)), FirmwareSizes(compiler=bad))
    assert "img" not in read(html).tags and html.count("&lt;img src=x") == 2


def browser() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(browser() is None, reason="no chromium or google-chrome on PATH")
def test_a_browser_draws_the_figures_and_runs_nothing_else(html: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(html, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser() or "", *flags, "--virtual-time-budget=8000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    dom = re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    root = re.search(r"<html[^>]*>", dom)
    assert root is not None and "harmed" not in root[0]
    assert dom.count('class="plot-container plotly"') == 2
    assert dom.count('class="point"') > 40
    drawn = dom[dom.index('id="memory-map"') : dom.index('id="costs"')]
    assert not re.search(r"<(image|a|foreignObject)[ >]", drawn.split("</svg>")[0])
