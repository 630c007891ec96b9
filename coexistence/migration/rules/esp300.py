"""Old entries of a Newport ESP300."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from coexistence.migration.draft import Draft, NeedsAHand, Source, shown
from coexistence.migration.rules.common import FLOW_NAMES, line, serial_wire, terminators, time_limits, truth

_AXES = (1, 2, 3)
_UNITS = {
    "mm": "mm", "millimeter": "mm", "millimeters": "mm", "millimetre": "mm", "um": "um", "micron": "um",
    "microns": "um", "micrometer": "um", "µm": "um", "in": "in", "inch": "in", "inches": "in", "mil": "mil",
    "uin": "uin", "deg": "deg", "degree": "deg", "degrees": "deg", "°": "deg", "grad": "grad", "rad": "rad",
    "radian": "rad", "radians": "rad", "mrad": "mrad", "urad": "urad",
}  # fmt: skip
_SET_LATER = {
    "velocity": "velocity", "max_velocity": "velocity", "speed": "velocity", "acceleration": "acceleration",
    "deceleration": "deceleration", "min_position": "low_limit", "max_position": "high_limit", "low_limit": "low_limit",
    "high_limit": "high_limit", "soft_limit_min": "low_limit", "soft_limit_max": "high_limit",
}  # fmt: skip


def convert(source: Source, draft: Draft) -> list[Draft]:
    """Convert a motion controller."""
    serial_wire(source, draft)
    is_stated = any(name in source.left for name in FLOW_NAMES)
    line(source, draft, "an ESP300", (19200,), ("none", "rtscts"))
    flow = draft.settings.get("flow_control")
    if not is_stated:
        source.remark('flow control is not stated, "none" used; with a full cable the manual wants "rtscts"')
    elif flow == "rtscts":
        source.remark('flow_control = "rtscts" kept; if the controller stays silent, the cable lacks the lines: "none"')
    terminators(source, ("\r", "\r\n", "\n"))
    time_limits(source, draft)
    descriptions = dict(_axis_tables(source))
    axes = _axes(source, descriptions)
    unused = [axis for axis in axes if truth(descriptions.get(axis, {}).get("enabled", True)) is False]
    draft.put("axes", [axis for axis in axes if axis not in unused] or axes)
    if unused == axes:
        draft.put("enabled", False)
        source.remark("disabled, as all of its axes were")
    elif unused:
        source.remark(f"disabled axes left out: {shown(unused)}; axes = {shown(axes)} uses them, too")
    _units(source, draft, descriptions)
    _later(source, draft, descriptions)
    return [draft]


def _axes(source: Source, descriptions: Mapping[int, Mapping[str, Any]]) -> list[int]:
    name, value = source.take("axes", "axis", "num_axes", "axis_count")
    wanted: list[Any]
    if name in ("num_axes", "axis_count"):
        wanted = list(range(1, value + 1)) if isinstance(value, int) and 0 < value <= 16 else [value]
    elif name:
        wanted = list(value) if isinstance(value, list) else [value]
    else:
        wanted = sorted(descriptions) or list(_AXES)
    numbers = [int(number) if str(number).isdecimal() else number for number in wanted]
    wrong = [number for number in numbers if number not in _AXES]
    if wrong or not numbers:
        raise NeedsAHand(
            f"{name} = {source.shown(name)}: an ESP300 has the axes 1, 2 and 3; give axes = [1, 2, 3]"
            if name
            else f"it has tables for the axes {', '.join(map(str, numbers))}; an ESP300 has 1, 2 and 3"
        )
    return sorted(set(numbers))


def _axis_tables(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """Take what is said about single axes: `axis1`, `axis_1`, `axes = [{...}]`, `axes.1`."""
    for number in range(1, 10):
        _, table = source.take(f"axis{number}", f"axis_{number}")
        if isinstance(table, Mapping):
            yield number, dict(table)
    axes = source.left.get("axes")
    if isinstance(axes, Mapping):
        source.take("axes")
        for key, table in axes.items():
            if isinstance(table, Mapping):
                yield int(key) if key.isdecimal() else 0, dict(table)
    elif isinstance(axes, list) and axes and all(isinstance(table, Mapping) for table in axes):
        source.take("axes")
        for position, table in enumerate(axes, start=1):
            number = table.get("axis", table.get("number", table.get("id", position)))
            yield number if isinstance(number, int) else position, dict(table)


def _units(source: Source, draft: Draft, descriptions: Mapping[int, Mapping[str, Any]]) -> None:
    axes = draft.settings["axes"]
    name, value = source.take("units", "unit")
    stated: dict[int | str, Any] = {}
    if isinstance(value, Mapping):
        stated = {int(key) if str(key).isdecimal() else key: unit for key, unit in value.items()}
    elif isinstance(value, list):
        stated = dict(zip(axes, value, strict=False))
    elif name:
        stated = dict.fromkeys(axes, value)
    stated |= {axis: table["units"] for axis, table in descriptions.items() if "units" in table}
    units = {}
    for axis, unit in stated.items():
        if axis not in axes:
            source.remark(f"units of axis {axis}, {unit!r}, left out: it is none of the axes in use")
            continue
        if (word := _UNITS.get(str(unit).lower())) is not None:
            units[str(axis)] = word
        else:
            source.remark(
                f"units of axis {axis}, {unit!r}, left out: codes in old files come from other tables than the "
                f'controller\'s; it counts in what it is set to, and `units = {{ {axis} = "mm" }}` would check that'
            )
    if units:
        draft.put("units", units, name)


def _later(source: Source, draft: Draft, descriptions: Mapping[int, Mapping[str, Any]]) -> None:
    for axis, table in descriptions.items():
        called = table.get("name", table.get("label"))
        if called is not None:
            source.remark(f"axis {axis} was called {called!r}; its columns begin with {draft.id}_axis_{axis}")
        for key, value in table.items():
            if key in ("axis", "number", "id", "units", "name", "enabled", "label"):
                continue
            if key in _SET_LATER:
                target = f"{draft.id}.axis[{axis}].{_SET_LATER[key]}"
                how = f"RE(bps.mv({target}, {value}))"
                source.remark(f"{key} of axis {axis} is not sent when connecting any more; set it with {how}")
            else:
                source.remark(f"{key} = {value} of axis {axis} left out: the new form has no such setting")
    for key, signal in _SET_LATER.items():
        name, value = source.take(key)
        if name:
            target = f"{draft.id}.axis[n].{signal}"
            source.remark(f"{name} is not sent when connecting any more; RE(bps.mv({target}, {value})) for each axis")
    name, mode = source.take("home_mode")
    if isinstance(mode, int) and not isinstance(mode, bool) and 0 <= mode <= 6:
        draft.put("home_mode", mode, name)
    elif name:
        source.remark(f"{name} = {source.shown(name)} left out: it is 0 to 6; 1, home and index, is used")
