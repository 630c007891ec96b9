"""Old entries of Thorlabs Elliptec modules: one for a bus becomes one for each module."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from coexistence.migration.draft import Draft, NeedsAHand, Source, as_id, shown
from coexistence.migration.rules.common import (
    line,
    says_nothing_new,
    serial_wire,
    terminators,
    time_limits,
    truth,
)

_DIGITS = "0123456789ABCDEF"


def convert(source: Source, draft: Draft) -> list[Draft]:
    """Convert a module, or a bus with several.

    A bus `rotators` with `device_addresses = [2, 3]` becomes `rotators_2` and `rotators_3`, in the order of the file;
    the positions of the modules are then in the columns `rotators_2` and `rotators_3`.
    """
    serial_wire(source, draft)
    line(source, draft, "an Elliptec module", (9600,), ("none",))
    terminators(source, ("", "\r", "\r\n", "\n"))
    time_limits(source, draft)
    scan, is_scanned = source.take("scan_all_addresses")
    if is_scanned is not False and scan:
        source.remark(f"{scan} = {source.shown(scan)} left out: each module in use has to be named")
    name, several = source.take("device_addresses", "addresses", "devices")
    if name:
        return _modules(source, draft, name, several)
    name, address = source.take("address", "device_address", "bus_address")
    if name:
        digit = _digit(address)
        if digit is None:
            raise NeedsAHand(f"{name} = {source.shown(name)} is no address; give one hexadecimal digit")
        draft.put("address", digit, name)
    else:
        draft.put("address", "0")
        source.remark('no address is stated, "0" used, which modules have when they are new')
    return [draft]


def _modules(source: Source, bus: Draft, name: str, several: Any) -> list[Draft]:
    listed = several if isinstance(several, list) else [several]
    modules: list[Draft] = []
    found: dict[str, Draft] = {}
    for index, entry in enumerate(listed):
        table = entry if isinstance(entry, Mapping) else {"address": entry}
        digit = _digit(table.get("address"))
        if digit is None:
            raise NeedsAHand(f"{name} has {entry!r}, which is no address; give each module one hexadecimal digit")
        if digit in found:
            source.remark(f"address {digit} is in {name} twice; taken once")
            continue
        stated = table.get("id")
        module = copy.deepcopy(bus)
        module.id = as_id(stated) if isinstance(stated, str) else f"{bus.id}_{digit}"
        module.put("address", digit, name)
        module.above = source.take_comments(name, index)
        _rest_of_module(source, module, table)
        found[digit] = module
        modules.append(module)
    if not modules:
        raise NeedsAHand(f"{name} is empty; give each module an entry with its address")
    columns = ", ".join(module.id for module in modules)
    source.remark(f"a bus of {len(modules)}: each module is an instrument of its own, with its position in {columns}")
    return modules


def _rest_of_module(source: Source, module: Draft, table: Mapping[str, Any]) -> None:
    """Take whether a module is in use; keep what else is said of it as comments."""
    if (is_used := truth(table.get("enabled", True))) is False:
        module.put("enabled", False)
    for key, value in table.items():
        if key in ("address", "id") or (key == "enabled" and is_used is not None):
            continue
        module.above.append(f"{key} = {shown(value)}")
        if not says_nothing_new(key):
            source.remark(f"{key} of {module.id} kept as a comment: the new form has no such setting")


def _digit(address: Any) -> str | None:
    """Return the digit of an address; numbers are values (10 is A), text is a digit as it goes over the wire."""
    if isinstance(address, bool):
        return None
    if isinstance(address, int):
        return _DIGITS[address] if 0 <= address < len(_DIGITS) else None
    text = str(address).strip().upper().removeprefix("0X")
    return text if len(text) == 1 and text in _DIGITS else None
