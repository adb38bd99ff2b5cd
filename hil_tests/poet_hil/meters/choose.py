"""From what a user names to a meter."""

from __future__ import annotations

from poet_hil.errors import MeterError
from poet_hil.meters.joulescope import Joulescope
from poet_hil.meters.meter import TraceMeter
from poet_hil.meters.ppk2 import Ppk2

METERS = "ppk2:PORT, or joulescope (joulescope:SERIAL-NUMBER where there are several)"


def make_meter(name: str, supply_v: float) -> TraceMeter:
    """The meter that `name` describes, not opened yet; a source meter supplies `supply_v` volts."""
    kind, _, where = name.partition(":")
    if kind == "ppk2" and where:
        return Ppk2(where, supply_v)
    if kind == "joulescope":
        return Joulescope(where)
    raise MeterError(f"{name!r} is no meter. Give {METERS}.")
