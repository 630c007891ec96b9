"""Motions that are followed by asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from coexistence import Rank
from devices.protocols.motion import PolledMotion
from devices.v4.movable import WireMovableLogic
from devices.v4.wire_backend import WireDeviceConnector

POLL_PERIOD_S = 0.05


@dataclass
class PolledLogic(WireMovableLogic):
    """Starts a motion and asks until it has ended; the wire is free in between."""

    connector: WireDeviceConnector
    protocol: PolledMotion
    move_timeout: float

    async def check_move(self, new_position: float) -> None:
        """Raise ValueRefused when the position is outside of the limits."""
        with self.connector.dialogue.naming():
            self.protocol.check_target(new_position)

    async def calculate_timeout(self, old_position: float, new_position: float) -> float:  # noqa: ARG002
        """Return the longest duration of a motion in s."""
        return self.move_timeout

    async def travel(self, target: float, report: Callable[[float], None]) -> None:
        """Move to the target; see :meth:`follow`."""
        await self.connector.dialogue.hold_async(lambda: self.protocol.start_move(target))
        await self.follow(target, report)

    async def follow(self, target: float | None, report: Callable[[float], None]) -> None:
        """Ask until the motion has ended, and return when it has ended well.

        Cancelled, it moves on until somebody stops it.
        """
        dialogue = self.connector.dialogue
        readback = self.connector.backend(self.readback)
        while True:
            state = await dialogue.hold_async(self.protocol.ask_motion)
            readback.report(state.position)
            report(state.position.value)
            if not state.moving:
                break
            await asyncio.sleep(POLL_PERIOD_S)
        await dialogue.hold_async(lambda: self.protocol.end_motion(target))

    async def halt(self) -> None:
        """Send the stop before everybody else."""
        await self.connector.dialogue.hold_async(self.protocol.stop, rank=Rank.URGENT)
