"""Pages that a write should have replaced, and did not: the medium dropped it, and said nothing."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from .builds import PAGE_HOME, PAGE_HOME_BYTES
from .line import ERR_CORRUPT

SCRATCH = 256


@pytest.fixture
def pages(page_library: ctypes.CDLL, page_storage: Path) -> ctypes.CDLL:
    assert page_library.poet_page_init() == 0
    return page_library


def page_out(pages: ctypes.CDLL, address: int, byte: int) -> None:
    data = bytes([byte]) * PAGE_HOME_BYTES
    assert pages.poet_page_out(address, data, len(data)) == 0


def page_in(pages: ctypes.CDLL, address: int) -> int:
    return int(pages.poet_page_in(address, ctypes.create_string_buffer(PAGE_HOME_BYTES), PAGE_HOME_BYTES))


def test_what_lives_within_a_step_is_never_that_of_the_step_before(pages: ctypes.CDLL) -> None:
    page_out(pages, SCRATCH, 1)
    assert page_in(pages, SCRATCH) == 0
    pages.poet_page_turn()
    assert page_in(pages, SCRATCH) == ERR_CORRUPT
    page_out(pages, SCRATCH, 2)
    assert page_in(pages, SCRATCH) == 0


def test_a_parameter_is_that_of_the_step_before_until_it_is_updated(pages: ctypes.CDLL) -> None:
    crc = ctypes.c_uint32()
    page_out(pages, PAGE_HOME, 1)
    assert pages.poet_page_crc_of_turn(PAGE_HOME, PAGE_HOME_BYTES, ctypes.byref(crc)) == 0
    pages.poet_page_turn()
    assert page_in(pages, PAGE_HOME) == 0
    # The update is dropped: a checkpoint after the step does not take the old page, nor does the next step.
    assert pages.poet_page_crc_of_turn(PAGE_HOME, PAGE_HOME_BYTES, ctypes.byref(crc)) == ERR_CORRUPT
    pages.poet_page_turn()
    assert page_in(pages, PAGE_HOME) == ERR_CORRUPT
