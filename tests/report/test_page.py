from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from poet_codegen.plan import Plan
from poet_codegen.report import FirmwareSizes, RunSummary, render_report
from poet_codegen.report.inputs import RunFacts

Read = Callable[[str], Any]


@pytest.fixture(scope="module")
def planned(tight: Plan, read: Read) -> Any:
    return read(render_report(tight, None, None))


@pytest.fixture(scope="module")
def ran(tight: Plan, run: RunSummary, sizes: FirmwareSizes, read: Read) -> Any:
    return read(render_report(tight, run, sizes))


def test_headline_says_model_board_budget_and_status(planned: Any, tight: Plan) -> None:
    assert planned.title == "digits on Netduino Plus 2 (STM32F405RG) in QEMU in 24.0\u202fKiB"
    for words in ("24.0 KiB", "Proven optimal" if tight.train.schedule.status == "optimal" else "Within"):
        assert words in planned.text
    assert tight.train.schedule.bound_family in planned.text
    assert re.search(r"modelled; [0-9.]+ % more than keeping everything", planned.text)


def test_sections_follow_what_is_there(planned: Any, ran: Any) -> None:
    def sections(page: Any) -> list[str]:
        return [value for tag, name, value in page.attributes if tag == "section" and name == "id"]

    assert sections(planned) == ["memory", "costs", "schedule", "sources", "digests"]
    assert sections(ran) == ["memory", "costs", "run", "sizes", "schedule", "sources", "digests"]
    assert set(planned.figures) == {"memory-map"} and set(ran.figures) == {"memory-map", "loss-curve"}


def test_links_lead_to_sections_of_the_page(ran: Any) -> None:
    ids = {value for _, name, value in ran.attributes if name == "id"}
    links = [value for tag, name, value in ran.attributes if tag == "a" and name == "href"]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)


def test_nothing_is_loaded_from_anywhere(ran: Any) -> None:
    assert {(tag, name) for tag, name, _ in ran.active} == {("a", "href")}
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "video"} & set(ran.tags)
    style = "".join(value for _, name, value in ran.attributes if name == "style")
    assert "url(" not in style


def test_only_the_two_scripts_of_the_page_may_run(ran: Any) -> None:
    policy = next(value for tag, name, value in ran.attributes if tag == "meta" and value.startswith("default-src"))
    _, plotly, own = ran.scripts
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (plotly, own)]
    assert f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}';" in policy
    assert "default-src 'none'" in policy and "http" not in policy


def test_styles_load_nothing(tight: Plan) -> None:
    style = re.search(r"<style>(.*?)</style>", render_report(tight, None, None), re.DOTALL)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1]


def test_run_is_judged_against_the_schedule(ran: Any, tight: Plan, read: Read) -> None:
    for words in ("97.2 %", "equals the schedule's ", "learning rate 0.02, at the end 0.005"):
        assert words in ran.text
    top = tight.train.schedule.arena_bytes
    wrong = RunSummary(RunFacts(arena_high_water_bytes=top + 4, page_ins=99, bit_identical=False))
    page = read(render_report(tight, wrong, None))
    verdicts = [value for tag, name, value in page.attributes if tag == "div" and name == "class"]
    assert verdicts.count("bad") == 3 and "good" not in verdicts
    assert "the schedule's " in page.text and "counted by the device; scheduled:" in page.text


def test_run_without_losses_and_losses_without_facts(tight: Plan, run: RunSummary, read: Read) -> None:
    assert "loss-curve" not in read(render_report(tight, RunSummary(run.facts), None)).figures
    page = read(render_report(tight, RunSummary(losses=run.losses), None))
    assert "loss-curve" in page.figures and "Training steps 1 200" in page.text


def test_sizes_show_what_is_known(tight: Plan, ran: Any, read: Read) -> None:
    for words in ("Flash, 59.9 KiB of 1.00 MiB, 5.85 %", "Largest stack frame: 184 B.", "arm-none-eabi-gcc 12.2.1"):
        assert words in ran.text
    page = read(render_report(tight, None, FirmwareSizes(flash_bytes=1, compiler="gcc")))
    assert "Compiler: gcc." in page.text and "Flash, " not in page.text


def test_every_figure_of_the_board_names_its_source(planned: Any, tight: Plan) -> None:
    for figure in (tight.board.power.run_w, tight.board.storage.write_power_w):
        assert figure.source.partition(": ")[2] in planned.text
    assert "estimate" in planned.text and "±50 %" in planned.text


def test_digests(ran: Any, tight: Plan) -> None:
    for words in (tight.request.model_sha256, tight.train.schedule.digest(), tight.request.tool_version, "ab" * 32):
        assert words in ran.text
    assert str(tight.request.model_path) not in ran.text, "only the file's name is for others"


def test_keep_everything(keep: Plan, read: Read) -> None:
    page = read(render_report(keep, None, None))
    for words in ("as little as keeping everything", "0 steps", "0 out, 0 in", "above the figure", "no deadline"):
        assert words in page.text
    assert "By paged tensor" not in page.text


def test_parameters_on_storage(from_storage: Plan, read: Read) -> None:
    page = read(render_report(from_storage, None, None))
    assert "By paged tensor" in page.text and "Parameters live in storage" in page.text


def test_same_input_same_text(tight: Plan, run: RunSummary, sizes: FirmwareSizes) -> None:
    assert render_report(tight, run, sizes) == render_report(tight, run, sizes)
