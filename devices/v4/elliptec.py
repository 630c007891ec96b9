"""Thorlabs Elliptec module (ELL14 rotation mount and relatives) as a v4 device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from ophyd_async.core import AsyncStatus, SignalR, SignalRW
from ophyd_async.core import StandardReadableFormat as Format

from coexistence import CommandTimeout, Connection, Rank
from devices.options import ElliptecOptions
from devices.protocols.conversation import Stamped
from devices.protocols.elliptec import ElliptecProtocol, Motion
from devices.v4.movable import WireMovable, WireMovableLogic
from devices.v4.wire_backend import FieldName, WireDeviceConnector, WireReadable, WireSignalBackend

_LISTEN_PERIOD_S = 0.04
_LOOK_PERIOD_S = 0.15
_CONFIRM_PERIOD_S = 1.0
_LOOK_TIMEOUT_S = 0.3


@dataclass
class ElliptecLogic(WireMovableLogic):
    """Starts a motion and listens for its late word, while the wire is free for other modules."""

    connector: WireDeviceConnector
    protocol: ElliptecProtocol
    options: ElliptecOptions

    async def check_move(self, new_position: float) -> None:
        """Raise ValueRefused when the position is outside of the limits."""
        with self.connector.dialogue.naming():
            self.protocol.check_target(new_position)

    async def calculate_timeout(self, old_position: float, new_position: float) -> float:  # noqa: ARG002
        """Return the longest duration of a motion in s."""
        return self.options.move_timeout

    async def travel(self, target: float, report: Callable[[float], None]) -> None:
        """Move to the target; see :meth:`follow`."""
        motion = self.protocol.move(target)
        with self.connector.backend(self.setpoint).remembering(target):
            await self.follow(motion, report)

    async def follow(self, motion: Motion, report: Callable[[float], None]) -> None:
        """Start a motion and return when it has ended well.

        Raises
        ------
        InstrumentFault
            When the module reports a fault.
        NotOnTarget
            When it stands still elsewhere.

        Cancelled, the module moves on until somebody stops it.
        """
        connection, dialogue = self.connector.connection, self.connector.dialogue
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def hear(line: bytes, _timestamp: float) -> bool:
            is_ours = motion.hear(line)
            loop.call_soon_threadsafe(news.set)
            return is_ours

        remove = connection.add_stray_listener(hear)
        try:
            await dialogue.hold_async(lambda: self.protocol.start(motion))
            next_look = time.monotonic() + _LOOK_PERIOD_S
            next_confirm = time.monotonic() + _CONFIRM_PERIOD_S
            while not motion.ended:
                await _wait(news, _LISTEN_PERIOD_S)
                news.clear()
                await connection.collect_strays_async()
                now = time.monotonic()
                if motion.ended:
                    break
                if motion.doubtful or now >= next_confirm:
                    await dialogue.hold_async(lambda: self.protocol.confirm(motion))
                    next_confirm = time.monotonic() + _CONFIRM_PERIOD_S
                elif self.options.live_position and motion.tells_its_position and now >= next_look:
                    await self._look(motion, report)
                    next_look = time.monotonic() + _LOOK_PERIOD_S
        finally:
            remove()
        if motion.error is not None:
            raise motion.error.located(connection.owner, connection.description)
        position = await dialogue.hold_async(self.protocol.position)
        self._report(position, report)

    async def halt(self) -> None:
        """Send the stop before everybody else."""
        await self.connector.dialogue.hold_async(self.protocol.stop, rank=Rank.URGENT)

    async def _look(self, motion: Motion, report: Callable[[float], None]) -> None:
        """Report the position, unless there is no answer, or no room on the wire for the question."""
        try:
            position = await self.connector.dialogue.hold_async(
                lambda: self.protocol.look(motion), timeout=_LOOK_TIMEOUT_S, rank=Rank.BACKGROUND
            )
        except CommandTimeout as error:
            motion.unanswered += error.sent
        except TimeoutError:
            pass
        else:
            if position is not None:
                self._report(position, report)

    def _report(self, position: Stamped[float], report: Callable[[float], None]) -> None:
        self._readback.report(position)
        report(position.value)

    @cached_property
    def _readback(self) -> WireSignalBackend[Any]:
        return self.connector.backend(self.readback)


class Elliptec(WireMovable, WireReadable):
    """Thorlabs Elliptec module: position in degrees (rotary) or millimetres (linear), with the module's own scale.

    Parameters
    ----------
    connection
        Wire, owner and default timeout. Several modules share one wire.
    name
        Name of the device and of the position's column.
    options
        Options of the module, see :class:`devices.options.ElliptecOptions`; ``address`` for one.
    """

    readback: Annotated[SignalR[float], FieldName("readback"), Format.HINTED_UNCACHED_SIGNAL]
    setpoint: Annotated[SignalRW[float], FieldName("setpoint")]
    velocity: Annotated[SignalRW[int], FieldName("velocity"), Format.CONFIG_SIGNAL]
    jog_step: Annotated[SignalRW[float], FieldName("jog_step"), Format.CONFIG_SIGNAL]
    home_offset: Annotated[SignalRW[float], FieldName("home_offset"), Format.CONFIG_SIGNAL]
    serial_number: Annotated[SignalR[str], FieldName("serial_number"), Format.CONFIG_SIGNAL]
    firmware: Annotated[SignalR[str], FieldName("firmware"), Format.CONFIG_SIGNAL]
    pulses_per_unit: Annotated[SignalR[float], FieldName("pulses_per_unit"), Format.CONFIG_SIGNAL]

    def __init__(self, connection: Connection, *, name: str = "", **options: Any) -> None:
        self._options = ElliptecOptions(**options)
        self._protocol = self._options.protocol()
        self._wire = WireDeviceConnector(connection, self._protocol)
        super().__init__(connector=self._wire)
        self.set_name(name, child_name_separator="_")

    @cached_property
    def movable_logic(self) -> ElliptecLogic:
        """How the module moves."""
        return ElliptecLogic(self.setpoint, self.readback, self._wire, self._protocol, self._options)

    @AsyncStatus.wrap
    async def home(self, clockwise: bool = True) -> None:
        """Search the home position; never repeated by itself.

        Cancelled, or after MoveTimedOut, the module is stopped.
        """
        async with self.stopped_on_failure("homing", self._options.move_timeout):
            await self.movable_logic.follow(self._protocol.home(clockwise), lambda _: None)

    @AsyncStatus.wrap
    async def jog(self, forward: bool = True) -> None:
        """Move by one jog step.

        Cancelled, or after MoveTimedOut, the module is stopped.
        """
        async with self.stopped_on_failure("the jog", self._options.move_timeout):
            await self.movable_logic.follow(self._protocol.jog(forward), lambda _: None)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
