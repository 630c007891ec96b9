"""Old entries of a Newport 1830-C."""

from __future__ import annotations

from coexistence.migration.draft import Draft, Source
from coexistence.migration.rules.common import line, rounded, serial_wire, set_with, terminators, time_limits

_UNITS = {"w": "W", "watt": "W", "watts": "W", "db": "dB", "dbm": "dBm", "rel": "REL", "relative": "REL"}
_SAMPLES_OF_FILTER = {1: 16, 2: 4, 3: 1}
_CALIBRATED_NM = (200, 1800)


def convert(source: Source, draft: Draft) -> list[Draft]:
    """Convert a power meter."""
    serial_wire(source, draft)
    line(source, draft, "an 1830-C", (9600,), ("none",))
    terminators(source, ("\n", "\r", "\r\n"))
    time_limits(source, draft)
    _wavelength(source, draft)
    _units(source, draft)
    name, code = source.take("filter", "averaging")
    if name:
        samples = _SAMPLES_OF_FILTER.get(code if isinstance(code, int) else 0)
        how = f"RE(bps.mv({draft.id}.filter, {samples}))" if samples else f"{draft.id}.filter: 16, 4 or 1 samples"
        source.remark(f"{name} = {source.shown(name)} is not sent when connecting any more; set it with {how}")
    set_with(source, ("attenuator",), f"RE(bps.mv({draft.id}.attenuator, True or False)); it was {{value}}")
    set_with(source, ("range", "range_index"), f"RE(bps.mv({draft.id}.range, {{value}})), 0 for automatic")
    set_with(source, ("zero", "zero_on_connect"), f"RE(bps.mv({draft.id}.zero, True)), storing the present reading")
    set_with(source, ("beep", "beeper"), f"RE(bps.mv({draft.id}.beeper, True or False)); it was {{value}}")
    return [draft]


def _wavelength(source: Source, draft: Draft) -> None:
    name, value = source.number("wavelength", "wavelength_nm", "calibration_wavelength")
    if value is None:
        return
    if not _CALIBRATED_NM[0] <= value <= _CALIBRATED_NM[1]:
        source.remark(f"{name} = {source.shown(name)} left out: not within 200 and 1800 nm; the meter keeps its own")
        return
    rounded(source, draft, "wavelength", name, value, "nm: the meter knows whole numbers")


def _units(source: Source, draft: Draft) -> None:
    name, value = source.take("units", "unit", "power_units")
    if not name:
        return
    units = _UNITS.get(str(value).lower())
    if units is not None:
        draft.put("units", units, name)
        if units in ("dB", "REL"):
            source.remark(
                f"{name} = {source.shown(name)}: readings fail with this display, as they mean nothing without their "
                'reference; the column is in W, for which units = "W" or "dBm" will do'
            )
        return
    source.remark(
        f"{name} = {source.shown(name)} left out: codes of units come from several tables (2 is dB in one and dBm in "
        'another), so it has to be a word; the display is set to "W", and the column is in W in any case'
    )
