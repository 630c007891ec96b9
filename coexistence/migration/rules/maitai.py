"""Old entries of a Spectra-Physics Mai Tai."""

from __future__ import annotations

from coexistence.migration.draft import Draft, Source
from coexistence.migration.rules.common import line, rounded, serial_wire, set_with, terminators, time_limits

_FAST_RATE = 115200


def convert(source: Source, draft: Draft) -> list[Draft]:
    """Convert a laser; what old programs did to it when they connected is never done by a session."""
    serial_wire(source, draft)
    line(source, draft, "a Mai Tai", (9600, _FAST_RATE), ("xonxoff", "none"))
    rate, flow = draft.settings.get("baud_rate", 9600), draft.settings.get("flow_control")
    if rate == _FAST_RATE and flow is None:
        draft.put("flow_control", "none")
        source.remark(f'flow_control = "none" added: units that run at {_FAST_RATE} baud have none')
    elif rate == _FAST_RATE and flow == "xonxoff":
        source.remark(
            f'flow_control kept, although units at {_FAST_RATE} baud have none: try "none" if it stays silent'
        )
    elif rate == 9600 and flow == "none":
        source.remark('flow_control = "none" kept, although the manual asks for "xonxoff" at 9600 baud')
    terminators(source, ("\n", "\r", "\r\n"))
    time_limits(source, draft)
    _watchdog(source, draft)
    name = draft.id
    tune = f"RE(bps.mv({name}.wavelength, {{value}})); connecting tunes nothing"
    set_with(source, ("wavelength", "wavelength_nm"), tune)
    for key in ("shutter", "shutter_open", "shutter_closed", "open_shutter", "auto_shutter"):
        set_with(source, (key,), f"RE(bps.mv({name}.shutter, True or False)); connecting never moves the shutter")
    for key in ("emission", "laser_on", "auto_on", "turn_on"):
        set_with(source, (key,), f"RE(bps.mv({name}.emission, True or False)); connecting never starts emission")
    return [draft]


def _watchdog(source: Source, draft: Draft) -> None:
    name, value = source.number("watchdog", "watchdog_s", "watchdog_ms", "watchdog_timeout_ms")
    if value is None:
        return
    seconds = value / 1000 if name.endswith("_ms") else value
    if 0 < seconds < 1:
        source.remark(f"{name} = {source.shown(name)} left out: the laser counts in whole s, and 0 would switch it off")
    elif 0 <= seconds <= 3600:
        rounded(source, draft, "watchdog", name, seconds, "s: the laser counts in whole s")
    else:
        source.remark(f"{name} = {source.shown(name)} left out: not within 0 and 3600 s; the laser keeps its own")
