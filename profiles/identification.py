"""Finding out what is on a wire by identity questions alone: nothing is set, moved or configured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from coexistence import Connection, Rank, SharedResources
from coexistence.config import DualConfig, InstrumentConfig
from coexistence.errors import CoexistenceError, WireDisconnected, WireInUse
from devices import registry
from devices.dialogue import Dialogue
from devices.protocols.conversation import Answer, Ask, Conversation
from devices.protocols.errors import ProtocolError
from profiles.acceptance import only_questions
from profiles.hardware import connection_of

SERIAL_ANSWER_S = 0.3
SLOW_ANSWER_S = 1.0
"""Given to each type once more when nothing has answered: an instrument that is busy answers late."""
BUS_ANSWER_S = 0.25
"""Modules of a bus answer at once or are not there, and there are sixteen addresses."""
VISA_ANSWER_S = 2.0

# Whose commands end with a line end come first: an Elliptec question has none, and would spoil the next one.
_ON_SERIAL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Newport1830C", {}),
    ("ESP300", {}),
    ("MaiTai", {}),
    ("MaiTai", {"baud_rate": 115200, "flow_control": "none"}),
    ("ScpiInstrument", {}),
    ("ScpiInstrument", {"baud_rate": 19200}),
    ("ScpiInstrument", {"baud_rate": 115200}),
    ("Elliptec", {}),
)

_METERS = ("344", "DMM", "MULTIMETER", "2000", "2100")
"""Parts of identities that multimeters have: Keysight's 344xx, Keithley's 2000 and 2100, and the plain word."""


@dataclass(frozen=True)
class Identified:
    """An instrument that said what it is: its type, the options that reach it, and its identity."""

    type: str
    identity: str
    options: dict[str, Any] = field(default_factory=dict)


def candidates(wire_key: str, type_name: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Return the types, with line settings, that may be on a wire named by this key; all, or the one given."""
    on_wire = _ON_SERIAL if wire_key == "serial_port" else (("ScpiInstrument", {}),)
    if type_name is None:
        return list(on_wire)
    asked = "ScpiInstrument" if type_name.startswith("Scpi") else type_name
    return [(type_name, options) for name, options in on_wire if name == asked] or [(type_name, {})]


def identify(
    wire_key: str,
    wire: str,
    type_name: str | None = None,
    *,
    tell: Callable[[str], object] = lambda _: None,
    config: DualConfig | None = None,
) -> list[Identified]:
    """Ask what is on a wire, type after type, until one answers as only it would.

    Parameters
    ----------
    wire_key
        `serial_port` or `resource`.
    wire
        Its name.
    type_name
        Ask only as this type would; all types in turn unless given.
    tell
        Is given a line before each type is asked for.
    config
        Says which VISA to use for a resource; pyvisa-py unless given.

    Returns
    -------
    list
        Empty when nothing answered; several modules of one Elliptec bus are several.

    Raises
    ------
    WireInUse, WireDisconnected
        The wire cannot be opened.
    """
    tries = [(VISA_ANSWER_S, "")] if wire_key == "resource" else [(SERIAL_ANSWER_S, ""), (SLOW_ANSWER_S, "once more ")]
    for patience, again in tries:
        for name, options in candidates(wire_key, type_name):
            speed = f" at {options['baud_rate']} baud" if "baud_rate" in options else ""
            tell(f"asking {again}as {name}{speed} ...")
            if found := _identified(wire_key, wire, name, options, patience, tell, config):
                return found if type_name or wire_key != "serial_port" else [_by_its_name(each) for each in found]
    return []


def _identified(
    wire_key: str,
    wire: str,
    name: str,
    options: dict[str, Any],
    patience: float,
    tell: Callable[[str], object],
    config: DualConfig | None,
) -> list[Identified]:
    variants: list[dict[str, Any]] = [{}]
    if name == "Elliptec":
        variants, patience = [{"address": f"{number:X}"} for number in range(16)], BUS_ANSWER_S
    with closing(SharedResources(config)) as resources:

        def connected(chosen: dict[str, Any]) -> Connection:
            entry = {"id": "identification", "type": name, "timeout": patience, wire_key: wire, **chosen}
            connection = connection_of(InstrumentConfig.model_validate(entry), resources)
            connection.open()
            return connection

        def ask(numbers: Iterable[int]) -> dict[int, Identified]:
            found = {}
            for number in numbers:
                chosen = {**options, **variants[number]}
                connection = connected(chosen)
                if (identity := _ask(name, chosen, connection)) is not None:
                    found[number] = Identified(_specific(name, identity), identity, chosen)
            return found

        found = ask(range(len(variants)))
        if name == "Elliptec" and not found:
            # To whoever else is there all these questions are the beginning of a line, which the next one would end.
            connected(variants[0]).write(b"\n", rank=Rank.URGENT)
        if found and (silent := set(range(len(variants))) - found.keys()):
            # A module that is busy may have answered too late.
            tell("asking once more at the other addresses ...")
            found |= ask(sorted(silent))
    return [found[number] for number in sorted(found)]


def _ask(name: str, options: dict[str, Any], connection: Connection) -> str | None:
    protocol: Any = registry.check_options(name, options)

    def begin() -> Conversation[str]:
        return only_questions(name, protocol.protocol().identify(), [])

    try:
        return Dialogue(connection, patience_s=0.0).identify(begin)
    except (WireInUse, WireDisconnected):
        raise
    except (ProtocolError, CoexistenceError):
        return None


def _by_its_name(found: Identified) -> Identified:
    """Return the type whose name an identity has: the instrument may have been too slow when it was asked as that."""
    if found.type != "ScpiInstrument":
        return found
    for name, options in _ON_SERIAL:
        same_line = options.get("baud_rate") == found.options.get("baud_rate")
        if name != found.type and same_line and _is_answer_of(name, options, found.identity):
            return Identified(name, found.identity, options)
    return found


def _is_answer_of(name: str, options: dict[str, Any], identity: str) -> bool:
    """Whether a type that asks for the identity as SCPI instruments are asked would have taken this one for its own."""
    protocol: Any = registry.check_options(name, options)
    conversation = protocol.protocol().identify()
    try:
        step = next(conversation)
        if not isinstance(step, Ask) or step.command.strip() != b"*IDN?":
            return False
        conversation.send(Answer(identity.encode("latin-1"), 0.0))
    except StopIteration:
        return True
    except ProtocolError:
        return False
    finally:
        conversation.close()
    return False


def _specific(name: str, identity: str) -> str:
    if name == "ScpiInstrument" and any(part in identity.upper() for part in _METERS):
        return "ScpiMeter"
    return name
