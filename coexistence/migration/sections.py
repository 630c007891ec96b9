"""Converting files that have the sections `[v2]` and `[v4]` already: instruments move where they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coexistence.config import DualConfig, Generation
from coexistence.errors import ConfigError
from coexistence.migration.edit import CannotEdit, ConfigText, change_record
from coexistence.migration.flat import SHADOW_SUFFIX, shadow_lines
from coexistence.migration.report import Conversion, ConversionRefused, Converted

Check = Callable[[str], DualConfig]

EQUIVALENTS = {
    "ophyd:EpicsMotor": "ophyd_async.epics.motor:Motor",
    "ophyd:EpicsSignal": "ophyd_async.epics.core:epics_signal_rw",
    "ophyd:EpicsSignalRO": "ophyd_async.epics.core:epics_signal_r",
    "ophyd.sim:SynAxis": "ophyd_async.sim:SimMotor",
}
"""What stands for common classes of ophyd in ophyd-async; their columns have other names."""


def convert_sections(text: str, check: Check, path: Path, *, to: Generation, shadows: bool) -> Conversion:
    """Convert a file with sections; see :func:`coexistence.migration.convert_file`."""
    try:
        config = check(text)
    except ConfigError as error:
        raise ConversionRefused(
            str(path),
            "it has problems of its own: " + "; ".join(f"{p.message} ({p.suggestion})" for p in error.problems),
            f"See `tandem config check {path}`.",
        ) from error
    edited = ConfigText(text)
    told: list[Converted] = []
    originals = [(index, settings) for generation, index, settings in edited.instruments() if generation == "v2"]
    for _, settings in originals:
        one = Converted(settings["id"], settings["type"], (settings["id"],), settings["type"])
        told.append(one)
        before = edited.text
        try:
            if to == "v4":
                _to_v4(edited, settings, config, one)
            elif shadows:
                _with_shadow(edited, settings, one)
            check(edited.text)
        except (CannotEdit, ConfigError) as error:
            edited.text = before
            one.new_ids = ()
            one.reason = f"left in v2: {error}"
    return Conversion(edited.text, "sections", told)


def _to_v4(edited: ConfigText, settings: dict[str, Any], config: DualConfig, told: Converted) -> None:
    name, type_name = settings["id"], settings["type"]
    if ":" in type_name:
        known = EQUIVALENTS.get(type_name)
        hint = f", {known} for one, and compare its columns" if known else ""
        told.new_ids = ()
        told.reason = f"left in v2: {type_name} is a class from elsewhere; name a class of ophyd-async{hint}"
        return
    if settings.get("shadow_of"):
        told.remarks.append(f"left in v2: it shadows {settings['shadow_of']!r}, which is v4 already")
        return
    if not config.v4.enabled:
        told.new_ids = ()
        told.reason = "left in v2: [v4] is disabled, and it would not be started there; set enabled = true in [v4]"
        return
    for generation, _, other in list(edited.instruments()):
        if generation == "v4" and other.get("shadow_of") == name:
            edited.remove(other["id"], "shadow_of")
            edited.put(other["id"], "enabled", False)
            told.remarks.append(f"{other['id']!r} shadowed it and is disabled now: both are v4")
    if not config.v2.enabled and settings.get("enabled", True):
        edited.put(name, "enabled", False)
        told.remarks.append("disabled, because [v2] was: set enabled = true when it is to be used")
    storage = config.storage_directories["v2"]
    if "camera_name" in settings and "output_dir" not in settings and storage is not None:
        edited.put(name, "output_dir", str(storage))
        told.remarks.append(f"output_dir added, so that its images stay in {storage}, the storage of v2")
    edited.remove(name, "migrated")
    edited.put(name, "migrated", change_record("v2", "none"))
    edited.move(name, "v4")


def _with_shadow(edited: ConfigText, settings: dict[str, Any], told: Converted) -> None:
    name = settings["id"]
    if ":" in settings["type"] or settings.get("shadow_of"):
        told.remarks.append("no shadow added: it has no twin of the same type")
        return
    if any(other.get("shadow_of") == name for _, _, other in edited.instruments()):
        return
    edited.append(shadow_lines(name, settings))
    told.new_ids = (name, name + SHADOW_SUFFIX)
