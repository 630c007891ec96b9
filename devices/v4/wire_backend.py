"""ophyd-async signals over a shared wire: a backend for one field, and a connector that fills declared signals."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from bluesky.protocols import Reading
from event_model import DataKey
from ophyd_async.core import (
    NO_ARG_VOID_SIGNATURE,
    Array1D,
    Callback,
    CommandBackend,
    Device,
    DeviceConnector,
    DeviceFiller,
    DeviceMock,
    NotConnectedError,
    Signal,
    SignalBackend,
    SignalDatatypeT,
    SignalR,
    SignalRW,
    StandardReadable,
    set_mock_precision,
    set_mock_units,
    set_mock_value,
)

from coexistence import CoexistenceError, Connection, Rank
from devices.data_keys import field_data_key, source
from devices.dialogue import Dialogue, converse
from devices.errors import NotAnswered
from devices.protocols.conversation import Conversation, Stamped
from devices.protocols.errors import ProtocolError
from devices.protocols.field import Field, Fields

T = TypeVar("T")

logger = logging.getLogger(__name__)

POLL_PERIOD_S = 0.2
_INVALID = 3


class WireProtocol(Protocol):
    """What a device needs to know of its instrument's protocol."""

    instrument: str
    fields: Fields

    def identify(self) -> Conversation[str]:
        """Check that the right instrument answers, and describe it."""


@dataclass(frozen=True)
class FieldName:
    """Annotation of a signal: which field of the protocol it stands for."""

    name: str


@dataclass(frozen=True)
class CommandName:
    """Annotation of a command: which method of the protocol begins its conversation."""

    name: str


class WireSignalBackend(SignalBackend[SignalDatatypeT]):
    """One field of an instrument as the backend of a signal.

    Values are asked for each time they are read. Somebody who subscribes gets the value by polling at background
    rank, which yields to every other use of the wire, and only as long as the subscription lasts; a failed poll shows
    as an invalid reading, never as the old value.
    """

    def __init__(self, datatype: type[SignalDatatypeT] | None, connector: WireDeviceConnector) -> None:
        super().__init__(datatype)
        self._connector = connector
        self.field_name = ""
        self._setpoint: Stamped[SignalDatatypeT] | None = None
        self._is_pinned = False
        self._callback: Callback[Reading[SignalDatatypeT]] | None = None
        self._poll: asyncio.Task[None] | None = None
        self._last: Reading[SignalDatatypeT] | None = None

    @property
    def field(self) -> Field[Any]:
        """What the value means and how it is asked for."""
        return self._connector.protocol.fields[self.field_name]

    def source(self, name: str, read: bool) -> str:  # noqa: ARG002
        """Return wire and command."""
        return source(self._connector.connection.description, self.field.command)

    async def connect(self, timeout: float) -> None:
        """Nothing to do: the device's connector has opened the wire and checked the instrument."""

    async def put(self, value: SignalDatatypeT | None) -> None:
        """Set the value; done when the instrument has reported it back.

        Cancelled before its turn on the wire, nothing is sent; cancelled later, the setting takes place.
        """
        with name_who_timed_out():
            found: Stamped[Any] = await self._connector.dialogue.put_async(self.field, value)
        self._setpoint = found
        self.report(found)

    async def get_datakey(self, source: str) -> DataKey:
        """Return what the field is, without asking the instrument."""
        return field_data_key(self.field, source)

    async def get_reading(self) -> Reading[SignalDatatypeT]:
        """Ask the instrument; the timestamp is that of the complete reply."""
        return await self._ask(Rank.NORMAL)

    async def get_value(self) -> SignalDatatypeT:
        """Ask the instrument."""
        return (await self._ask(Rank.NORMAL))["value"]

    async def get_setpoint(self) -> SignalDatatypeT:
        """Return what was set last; before that, what the instrument reports."""
        return await self.get_value() if self._setpoint is None else self._setpoint.value

    def set_callback(self, callback: Callback[Reading[SignalDatatypeT]] | None) -> None:
        """Begin or end polling."""
        if callback and self._callback:
            raise RuntimeError(f"{self.source('', read=True)} is being monitored already")
        self._callback = callback
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        if callback:
            self._poll = asyncio.create_task(self._poll_for_ever())

    @contextlib.contextmanager
    def remembering(self, value: SignalDatatypeT) -> Iterator[None]:
        """Take a value as what was set last, by other means than :meth:`put`; it stands while the block goes on."""
        self._setpoint = Stamped(value, time.time())
        self.report(self._setpoint)
        self._is_pinned = True
        try:
            yield
        finally:
            self._is_pinned = False

    def report(self, measured: Stamped[SignalDatatypeT]) -> None:
        """Tell the subscriber about a value that came with something else than a poll."""
        self._notify(Reading(value=measured.value, timestamp=measured.timestamp, alarm_severity=0))

    async def _ask(self, rank: Rank) -> Reading[SignalDatatypeT]:
        get = self.field.get
        if get is None:
            raise TypeError(f"{self.source('', read=True)} cannot be read")
        stands, setpoint = self.field.remembered, self._setpoint
        if stands and setpoint is not None and self._is_pinned:
            measured = setpoint
        else:
            measured = await self._connector.hold(get, rank)
            # Somebody else may have moved it since, by hand for one.
            if stands and setpoint is not None and stands(setpoint.value, measured.value):
                measured = setpoint
        return Reading(value=measured.value, timestamp=measured.timestamp, alarm_severity=0)

    async def _poll_for_ever(self) -> None:
        failing = False
        while True:
            try:
                self._notify(await self._ask(Rank.BACKGROUND))
                failing = False
            except (CoexistenceError, ProtocolError) as error:
                if not failing:
                    logger.warning("polling %s: %s", self.source("", read=True), error)
                failing = True
                self._notify_failure()
            await asyncio.sleep(self._connector.poll_period_s)

    def _notify_failure(self) -> None:
        value: Any = math.nan
        if self.field.shape:
            value = np.full(self.field.shape, math.nan)
        elif self.field.datatype is not float:
            value = self.field.datatype() if self._last is None else self._last["value"]
        self._notify(Reading(value=value, timestamp=time.time(), alarm_severity=_INVALID))

    def _notify(self, reading: Reading[SignalDatatypeT]) -> None:
        self._last = reading
        if self._callback is not None:
            self._callback(reading)


class WireCommandBackend(CommandBackend[[], None]):
    """A conversation that is held on request."""

    def __init__(self, signature: inspect.Signature | None, connector: WireDeviceConnector) -> None:
        super().__init__(signature or NO_ARG_VOID_SIGNATURE)
        self._connector = connector
        self.method_name = ""

    def source(self, name: str) -> str:  # noqa: ARG002
        """Return wire and command."""
        return source(self._connector.connection.description, self.method_name)

    async def connect(self, timeout: float) -> None:
        """Nothing to do: the device's connector has opened the wire and checked the instrument."""

    async def execute(self) -> None:
        """Hold the conversation."""
        await self._connector.hold(getattr(self._connector.protocol, self.method_name))


class WireDeviceConnector(DeviceConnector):
    """Fills the declared signals of a device from a protocol, and connects it over a shared wire.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    protocol
        What to say to the instrument; signals are declared with the :class:`FieldName` of one of its fields,
        commands with the :class:`CommandName` of one of its methods.
    begin
        Conversation to hold after the instrument has been identified, to apply settings.
    restore
        Conversation to hold when the wire comes back after a loss, before anybody else's exchange.
    poll_period_s
        How often to ask for a value somebody has subscribed to.
    """

    def __init__(
        self,
        connection: Connection,
        protocol: WireProtocol,
        *,
        begin: Callable[[], Conversation[None]] | None = None,
        restore: Callable[[], Conversation[None]] | None = None,
        poll_period_s: float = POLL_PERIOD_S,
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self.dialogue = Dialogue.in_terms_of(protocol, connection)
        self.poll_period_s = poll_period_s
        self.identity = ""
        self._begin = begin
        self._restore = restore
        self._remove_reconnect_step: Callable[[], None] | None = None
        self._signals: dict[Signal[Any], WireSignalBackend[Any]] = {}
        self._filler: DeviceFiller[WireSignalBackend[Any], WireDeviceConnector, WireCommandBackend] | None = None

    def create_children_from_annotations(self, device: Device) -> None:
        """Make the signals and commands that the device's class declares."""
        if self._filler is not None:
            return
        self._filler = DeviceFiller(
            device=device,
            signal_backend_factory=lambda datatype: WireSignalBackend(datatype, self),
            device_connector_factory=lambda: self,
            command_backend_factory=lambda signature: WireCommandBackend(signature, self),
        )
        backends = []
        for backend, extras in self._filler.create_signals_from_annotations():
            backend.field_name = _take(extras, FieldName)
            backends.append(backend)
        signals = [child for _, child in device.children() if isinstance(child, Signal)]
        self._signals = dict(zip(signals, backends, strict=True))
        for command, extras in self._filler.create_commands_from_annotations():
            command.method_name = _take(extras, CommandName)
        self._filler.check_created()

    def make_signal(self, field_name: str) -> SignalR[Any]:
        """Return a signal for a field that no annotation declares; read-only when the field cannot be set."""
        field = self.protocol.fields[field_name]
        datatype: Any = Array1D[np.float64] if field.shape else field.datatype
        backend: WireSignalBackend[Any] = WireSignalBackend(datatype, self)
        backend.field_name = field_name
        signal: SignalR[Any] = SignalR(backend) if field.put is None else SignalRW(backend)
        self._signals[signal] = backend
        return signal

    def backend(self, signal: Signal[Any]) -> WireSignalBackend[Any]:
        """Return the wire's backend of a signal, also while the device is mocked."""
        return self._signals[signal]

    async def hold(self, begin: Callable[[], Conversation[T]], rank: Rank = Rank.NORMAL) -> T:
        """Hold a conversation for a signal or command; raises NotAnswered where the wire raises a TimeoutError."""
        with name_who_timed_out():
            return await self.dialogue.hold_async(begin, rank=rank)

    async def connect_mock(self, device: Device, mock: DeviceMock[Any]) -> None:
        """Give every signal a soft value with the field's units, precision and first choice; no wire is opened."""
        await super().connect_mock(device, mock)
        for signal, backend in self._signals.items():
            field = backend.field
            if field.units is not None:
                set_mock_units(signal, field.units)
            if field.precision is not None:
                set_mock_precision(signal, field.precision)
            if field.choices:
                set_mock_value(signal, field.choices[0])
            if field.shape:
                set_mock_value(signal, np.zeros(field.shape))

    async def connect_real(self, device: Device, timeout: float, force_reconnect: bool) -> None:
        """Open the wire and check the instrument, within the timeout.

        Raises
        ------
        NotConnectedError
            Naming device, wire and remedy.
        """
        where = f"{device.name or self.connection.owner} on {self.connection.description}"
        try:
            async with asyncio.timeout(timeout):
                await self._open()
        except TimeoutError as error:
            if isinstance(error, CoexistenceError):
                raise NotConnectedError(f"{where}: {error}") from error
            raise NotConnectedError(
                f"{where}: not connected within {timeout:g} s. Check that the instrument is on and that nobody keeps "
                "its wire."
            ) from error
        except (CoexistenceError, ProtocolError) as error:
            raise NotConnectedError(f"{where}: {error}") from error
        device.set_name(device.name)
        await super().connect_real(device, timeout, force_reconnect)

    def release(self) -> None:
        """Leave the wire to others: no step after a reconnect remains on it."""
        if self._remove_reconnect_step is not None:
            self._remove_reconnect_step()
            self._remove_reconnect_step = None

    async def _open(self) -> None:
        await asyncio.to_thread(self.connection.open)
        self.identity = await self.dialogue.identify_async(self.protocol.identify)
        if self._begin is not None:
            await self.dialogue.hold_async(self._begin)
        restore = self._restore
        if restore is not None and self._remove_reconnect_step is None:
            self._remove_reconnect_step = self.connection.wire.add_reconnect_step(
                self.connection.owner, lambda guard: converse(guard, restore(), self.connection.timeout)
            )


class WireReadable(StandardReadable):
    """A readable whose signals are on a shared wire."""

    _connector: WireDeviceConnector

    @property
    def connection(self) -> Connection:
        """The owner's face of the wire; its `rank` says before whom this device asks."""
        return self._connector.connection

    def destroy(self) -> None:
        """End this device, which leaves the wire to others."""
        self._connector.release()


@contextlib.contextmanager
def name_who_timed_out() -> Iterator[None]:
    """Keep ophyd-async from replacing a wire's TimeoutError by one that names neither owner nor remedy."""
    try:
        yield
    except TimeoutError as error:
        if isinstance(error, CoexistenceError):
            raise NotAnswered(error) from error
        raise


def _take(extras: list[Any], kind: type[FieldName] | type[CommandName]) -> str:
    for extra in extras:
        if isinstance(extra, kind):
            extras.remove(extra)
            return extra.name
    raise TypeError(f"a declared signal or command needs a {kind.__name__} annotation")
