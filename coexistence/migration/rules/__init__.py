"""The rules by which old entries become new ones, by type of instrument."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator

from coexistence.migration.draft import Draft, NeedsAHand, Source
from coexistence.migration.rules import elliptec, esp300, maitai, newport_1830c, pvcam, scpi
from coexistence.migration.rules.common import enabled, the_rest

Rule = Callable[[Source, Draft], list[Draft]]

_RULES: dict[str, tuple[str, Rule]] = {
    "newport1830c": ("Newport1830C", newport_1830c.convert),
    "esp300": ("ESP300", esp300.convert),
    "maitai": ("MaiTai", maitai.convert),
    "elliptec": ("Elliptec", elliptec.convert),
    "scpi": ("ScpiInstrument", scpi.convert),
    "scpimeter": ("ScpiMeter", scpi.convert_meter),
    "pvcam": ("PVCAMInstrument", pvcam.convert),
}
_OTHER_NAMES = {
    "newport1830": "newport1830c", "1830c": "newport1830c", "newport1830cv2": "newport1830c",
    "newportpowermeter": "newport1830c",
    "newportesp300": "esp300", "esp300v2": "esp300", "esp300controller": "esp300", "esp": "esp300",
    "spectraphysicsmaitai": "maitai", "maitaiv2": "maitai", "maitailaser": "maitai",
    "ell14": "elliptec", "elliptecell14": "elliptec", "elliptecbus": "elliptec", "thorlabselliptec": "elliptec",
    "thorlabsell14": "elliptec", "elliptecv2": "elliptec", "ell14bus": "elliptec",
    "scpiinstrument": "scpi", "scpiv2": "scpi", "visa": "scpi", "visainstrument": "scpi", "visav2": "scpi",
    "visascpi": "scpi", "scpikeithley": "scpi", "keithley2400": "scpi", "visarigol": "scpi",
    "dmm": "scpimeter", "multimeter": "scpimeter", "keithley2000": "scpimeter", "keithley2100": "scpimeter",
    "keithleydmm6500": "scpimeter", "agilent34401a": "scpimeter", "hp34401a": "scpimeter",
    "keysight34461a": "scpimeter",
    "pvcamv2": "pvcam", "pvcaminstrument": "pvcam", "primebsi": "pvcam", "pvcamcamera": "pvcam",
    "photometrics": "pvcam",
}  # fmt: skip


def convert(source: Source, instrument_id: str) -> list[Draft]:
    """Convert an old entry by the rule of its type.

    Raises
    ------
    NeedsAHand
        It cannot be converted without somebody who knows more.
    """
    taken, old_type = source.take("type", "driver", "kind")
    if not taken:
        raise NeedsAHand("it has no type; give one of " + ", ".join(type_names()))
    if not isinstance(old_type, str):
        known = ", ".join(type_names())
        raise NeedsAHand(f"{taken} = {source.shown(taken)} is no name of a type; give one of {known}")
    if re.match(r"[\w.]+:[A-Za-z_]\w*$", old_type):
        raise NeedsAHand(f"{old_type} is a class from elsewhere; give a [[v4.instruments]] with an ophyd-async class")
    name = re.sub(r"[^a-z0-9]", "", old_type.lower())
    if name.startswith("mock"):
        raise NeedsAHand("a mock is on no wire; `--simulate` puts simulated instruments in place of all wires")
    key = name if name in _RULES else _OTHER_NAMES.get(name)
    if key is None:
        raise NeedsAHand(f"nothing is known of the type {old_type!r}; {_suggestion(name)}")
    new_type, rule = _RULES[key]
    draft = Draft(instrument_id, new_type)
    drafts = rule(source, draft)
    whole = Draft(instrument_id, new_type)
    enabled(source, whole)
    for each in drafts:
        # A module that is not in use stays so, whatever is said of its bus.
        if "enabled" in whole.settings and each.settings.get("enabled", True):
            each.put("enabled", whole.settings["enabled"], whole.taken_from["enabled"] if each is drafts[0] else "")
    name, simulation = source.take("simulation")
    if isinstance(simulation, dict):
        for each in drafts:
            each.put("simulation", simulation, name)
    elif name:
        source.remark(f"{name} = {source.shown(name)} left out: it is no table of options for --simulate")
    the_rest(source)
    return drafts


def type_names() -> Iterator[str]:
    """Yield the names of the types there are rules for, in the new form."""
    yield from (new_type for new_type, _ in _RULES.values())


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, [*_RULES, *_OTHER_NAMES], n=1)
    if close:
        return f"did you mean {_RULES[_OTHER_NAMES.get(close[0], close[0])][0]}?"
    return "known are " + ", ".join(type_names()) + ", or package.module:Class for a class from elsewhere"
