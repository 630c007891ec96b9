"""Blocking drivers for the instruments whose protocols this package knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, overload

from coexistence import Connection
from devices.dialogue import Dialogue, converse
from devices.protocols.conversation import Conversation, Stamped
from devices.protocols.field import Fields

T = TypeVar("T")


class InstrumentProtocol(Protocol):
    """What a driver needs to know of an instrument's protocol."""

    instrument: str
    fields: Fields

    def identify(self) -> Conversation[str]:
        """Check that the right instrument answers, and describe it."""


ProtocolT = TypeVar("ProtocolT", bound=InstrumentProtocol)


class BlockingDriver(Generic[ProtocolT]):
    """A driver as scripts know it: attributes to read and set, methods that return when the work is done.

    It may be used from several threads: each exchange has the wire for itself.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    protocol
        What to say to the instrument.
    """

    thread_safe = True

    def __init__(self, connection: Connection, protocol: ProtocolT) -> None:
        self.connection = connection
        self.protocol = protocol
        self.dialogue = Dialogue.in_terms_of(protocol, connection)
        self.identity = ""
        self._remove_reconnect_step: Callable[[], None] | None = None

    @property
    def fields(self) -> Fields:
        """What the instrument's values mean."""
        return self.protocol.fields

    def connect(self) -> None:
        """Open the wire and check that the right instrument answers.

        Raises
        ------
        CoexistenceError
            When the port is missing, in use, or nothing answers.
        ProtocolError
            When something else answers.
        """
        self.connection.open()
        self.identity = self.dialogue.identify(self.protocol.identify)

    def close(self) -> None:
        """Leave the wire to others: no step after a reconnect and no listener of this driver remains on it."""
        if self._remove_reconnect_step is not None:
            self._remove_reconnect_step()
            self._remove_reconnect_step = None

    def read(self, name: str) -> Stamped[Any]:
        """Measure a value; returns it with the time at which its reply was complete."""
        field = self.fields[name]
        if field.get is None:
            raise AttributeError(f"{name} of {self.protocol.instrument} cannot be read")
        return self.dialogue.hold(field.get)

    def write(self, name: str, value: Any) -> Stamped[Any]:
        """Set a value; returns what the instrument then reports.

        Raises
        ------
        ValueRefused
            When the value is not allowed; nothing is sent then.
        """
        return self.dialogue.put(self.fields[name], value)

    def restore_after_reconnect(self, begin: Callable[[], Conversation[None]]) -> None:
        """Hold a conversation each time the wire comes back, before anybody else's exchange."""
        if self._remove_reconnect_step is not None:
            self._remove_reconnect_step()
        self._remove_reconnect_step = self.connection.wire.add_reconnect_step(
            self.connection.owner, lambda guard: converse(guard, begin(), self.connection.timeout)
        )


class Value(Generic[T]):
    """An attribute of a blocking driver that is measured when read and sent when set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, driver: None, owner: type) -> Value[T]: ...
    @overload
    def __get__(self, driver: BlockingDriver[Any], owner: type) -> T: ...
    def __get__(self, driver: BlockingDriver[Any] | None, owner: type) -> Value[T] | T:
        if driver is None:
            return self
        value: T = driver.read(self._name).value
        return value

    def __set__(self, driver: BlockingDriver[Any], value: T) -> None:
        driver.write(self._name, value)
