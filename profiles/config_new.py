"""`tandem config new`: a configuration made by questions and answers, from what is plugged in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import tomlkit
import typer
from rich.console import Console

from coexistence.config import DualConfig, Generation, InstrumentConfig, port_access_remedy
from coexistence.errors import CoexistenceError, ConfigError
from devices import registry
from profiles.configuration import (
    KEYS_OF_MEDIUM,
    NAMES_AT_THE_PROMPT,
    InstrumentChecks,
    check_instrument,
    line_settings,
    load_configuration,
)
from profiles.console import say
from profiles.identification import Identified, identify
from profiles.present_wires import PresentWire, present_wires

T = TypeVar("T")

_USUAL_NAMES = {
    "Newport1830C": "power",
    "Elliptec": "rotator",
    "ESP300": "stages",
    "MaiTai": "laser",
    "ScpiInstrument": "instrument",
    "ScpiMeter": "meter",
    "PVCAMInstrument": "camera",
}
_GENERATIONS: dict[str, tuple[Generation, ...]] = {"v2": ("v2",), "v4": ("v4",), "both": ("v2", "v4")}


@dataclass
class Draft:
    """What has been answered so far."""

    name: str = "bench"
    instruments: dict[Generation, list[dict[str, Any]]] = field(default_factory=lambda: {"v2": [], "v4": []})

    @property
    def ids(self) -> list[str]:
        """The ids that are taken."""
        return [instrument["id"] for listed in self.instruments.values() for instrument in listed]

    def problems_with(self, entries: dict[Generation, dict[str, Any]]) -> list[str]:
        """Return what would be wrong with the file if these instruments were in it."""
        values: dict[str, Any] = {
            generation: {"instruments": [*listed, *([entries[generation]] if generation in entries else [])]}
            for generation, listed in self.instruments.items()
        }
        try:
            DualConfig.from_mapping(values, check=InstrumentChecks(), line_settings=line_settings)
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    def as_toml(self) -> str:
        """Return the file."""
        document = tomlkit.document()
        document["application"] = {"name": self.name}
        for generation, listed in self.instruments.items():
            section = tomlkit.table()
            section["enabled"] = bool(listed) or not self.ids
            if listed:
                tables = tomlkit.aot()
                for instrument in listed:
                    tables.append(tomlkit.item(instrument))
                section["instruments"] = tables
            document[generation] = section
        return tomlkit.dumps(document)


def run_new(path: Path) -> int:
    """Ask, and write the file once all is answered; return the exit code.

    Instruments are asked who they are and nothing else. Ctrl-C leaves no file, and one that was there as it was.
    """
    console = Console()
    try:
        return _ask_all(path, console)
    except (typer.Abort, KeyboardInterrupt):
        say(console, f"\nStopped; {path} is as it was." if path.exists() else "\nStopped; nothing was written.")
        return 130


def _ask_all(path: Path, console: Console) -> int:
    if reason := _not_writable(path):
        say(console, reason)
        return 1
    if path.exists() and not typer.confirm(f"{path} exists. Replace it?", default=False):
        say(console, f"{path} stays as it is. Name another file: tandem config new FILE")
        return 1
    draft = Draft(_prompt("Name of the bench", _name, default="bench"))
    in_network = typer.confirm("Look for VISA instruments in the network too? That sends a broadcast", default=False)
    found = present_wires(in_network=in_network, tell=lambda problem: say(console, problem))
    say(
        console,
        f"Found {len(found)} wire{'' if len(found) == 1 else 's'}."
        if found
        else "No serial port and no VISA instrument was found.",
    )
    while True:
        _list_wires(found, console)
        wire = _prompt(
            "Number, or a port, VISA resource or camera that is not listed; empty when done",
            lambda text: _chosen_wire(text, found),
            default="",
        )
        if wire is None:
            break
        _add(draft, wire, console)
    _write(draft, path)
    number = len(draft.ids)
    say(console, f"{path} has {number} instrument{'' if number == 1 else 's'}, and nothing is wrong with it.")
    say(console, f"Open it with: tandem shell -c {path}")
    return 0


def _list_wires(found: list[PresentWire], console: Console) -> None:
    for number, wire in enumerate(found, 1):
        say(console, f"  {number}  {wire.name}  {wire.description}")


def _chosen_wire(text: str, found: list[PresentWire]) -> PresentWire | None:
    text = text.strip()
    if not text:
        return None
    if text.isdigit():
        if not 1 <= int(text) <= len(found):
            raise ValueError(f"there is no number {text}" + (f"; there are 1 to {len(found)}" if found else ""))
        return found[int(text) - 1]
    key = _key_of(text)
    # The rules of the file are asked, so that whatever is taken here is taken there.
    entry = {"id": "new", "type": "new.type:Instrument", key: text}
    try:
        DualConfig.from_mapping({"v4": {"instruments": [entry]}})
    except ConfigError as error:
        raise ValueError(str(error.problems[0])) from None
    if key == "serial_port" and text.startswith("/") and not os.path.exists(text):
        raise ValueError(f"there is no {text}")
    return PresentWire(key, text, "")


def _key_of(text: str) -> str:
    if text.startswith(("/", "usb:")) or "://" in text or text.upper().startswith("COM"):
        return "serial_port"
    return "resource" if "::" in text else "camera_name"


def _add(draft: Draft, wire: PresentWire, console: Console) -> None:
    types = [
        name for name in registry.type_names() if wire.key in KEYS_OF_MEDIUM[registry.instrument_type(name).medium]
    ]
    if len(types) == 1:
        found = [Identified(types[0], "")]
    else:
        asked = _prompt(
            f"Type: {', '.join(types)}; empty to ask the instrument", lambda text: _one_of(text, types), default=""
        )
        found = _identify(wire, asked, console)
        if not found:
            chosen = asked or _prompt(
                "Type all the same; empty to leave it out", lambda text: _one_of(text, types), default=""
            )
            found = [Identified(chosen, "")] if chosen else []
    for instrument in found:
        if instrument.identity:
            where = f" at address {instrument.options['address']}" if "address" in instrument.options else ""
            say(console, f"{instrument.type}{where}: {instrument.identity}")
        _add_one(draft, wire, instrument, console)


def _identify(wire: PresentWire, asked: str, console: Console) -> list[Identified]:
    try:
        found = identify(wire.key, wire.name, asked or None, tell=lambda line: say(console, line))
    except CoexistenceError as error:
        say(console, str(error))
        if wire.key == "serial_port" and wire.name.startswith("/") and not os.access(wire.name, os.R_OK | os.W_OK):
            say(console, f"To use it, {port_access_remedy(wire.name)}.")
        return []
    if not found:
        say(console, f"Nothing on {wire.name} said who it is. Is it on, and are its line settings the usual ones?")
    return found


def _add_one(draft: Draft, wire: PresentWire, instrument: Identified, console: Console) -> None:
    options = dict(instrument.options)
    if instrument.type == "Elliptec" and not instrument.identity:
        options["address"] = _prompt(
            "Address on the bus", lambda text: _option("Elliptec", "address", text, wire), default="0"
        )
    name = _prompt("Its name", lambda text: _free_id(text, draft), default=_usual_name(instrument.type, draft))
    which = _prompt("Driver: v2, v4 or both", lambda text: _one_of(text, list(_GENERATIONS)), default="v4")
    entries = {
        generation: {
            "id": f"{name}_{generation}" if which == "both" else name,
            "type": instrument.type,
            wire.key: wire.name,
            **options,
        }
        for generation in _GENERATIONS[which]
    }
    if problems := draft.problems_with(entries):
        say(console, "It is left out: " + "; ".join(problems))
        return
    for generation, entry in entries.items():
        draft.instruments[generation].append(entry)


def _usual_name(type_name: str, draft: Draft) -> str:
    usual = _USUAL_NAMES[type_name]
    return next(
        name for number in range(1, 1000) if _is_free(name := usual if number == 1 else f"{usual}{number}", draft)
    )


def _is_free(name: str, draft: Draft) -> bool:
    return not {name, f"{name}_v2", f"{name}_v4"} & set(draft.ids)


def _free_id(text: str, draft: Draft) -> str:
    try:
        InstrumentConfig(id=text, type="new")
    except ValueError:
        raise ValueError(
            "a name has letters, digits and underscores, does not begin with a digit and is no word of Python"
        ) from None
    if text in NAMES_AT_THE_PROMPT:
        raise ValueError(
            f"{text} is the name of something else at the prompt; so are: {', '.join(NAMES_AT_THE_PROMPT)}"
        )
    if not _is_free(text, draft):
        raise ValueError(f"{text} is taken; taken are: {', '.join(draft.ids)}")
    return text


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("give a name")
    return text.strip()


def _option(type_name: str, option: str, text: str, wire: PresentWire) -> str:
    entry = InstrumentConfig.model_validate({"id": "new", "type": type_name, wire.key: wire.name, option: text})
    for finding in check_instrument("v4", entry):
        raise ValueError(f"{finding.message}: {finding.suggestion}")
    return text.upper()


def _one_of(text: str, known: Iterable[str]) -> str:
    text = text.strip()
    matches = {name.lower(): name for name in known}
    if text and text.lower() not in matches:
        raise ValueError(f"{text!r} is none of: {', '.join(known)}")
    return matches.get(text.lower(), "")


def _prompt(question: str, check: Callable[[str], T], default: str) -> T:
    """Ask until the answer is one; what is wrong with it is told at once."""

    def checked(text: str) -> T:
        try:
            return check(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    answer: T = typer.prompt(question, default=default, value_proc=checked, show_default=bool(default))
    return answer


def _not_writable(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a directory. Name a file: tandem config new {path / 'bench.toml'}"
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"There is no folder {folder}. Make it first: mkdir -p {folder}"
    if not os.access(folder, os.W_OK):
        return f"You may not write to {folder}. Name a file elsewhere: tandem config new FILE"
    return ""


def _write(draft: Draft, path: Path) -> None:
    """Write the file whole or not at all, after it passed the same checks as any other."""
    unfinished = path.absolute().with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(draft.as_toml(), encoding="utf-8")
        load_configuration(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
