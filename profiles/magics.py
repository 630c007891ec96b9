"""IPython commands that work with devices of both generations: `%mov`, `%movr`, `%ct`, `%wa`.

bluesky's own magics bring a RunEngine and an event loop of their own, and show no position of an ophyd-async device.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import bluesky.plan_stubs as bps
from bluesky import RunEngineInterrupted
from bluesky.protocols import Locatable, Movable, Readable, Triggerable
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import Msg, maybe_await
from IPython.core.magic import Magics, line_magic, magics_class

from profiles.session import Session

LOCATE_TIMEOUT_S = 5.0


@magics_class
class SessionMagics(Magics):
    """Short commands for a session's devices; nothing they read is recorded."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell=shell)
        self._evaluate = shell.ev
        self._session = session

    @line_magic
    def mov(self, line: str) -> None:
        """Move devices to positions: `%mov polarizer 45`, several pairs at once."""
        self._run(bps.mv(*self._pairs(line)))

    @line_magic
    def movr(self, line: str) -> None:
        """Move devices by distances: `%movr polarizer 5`, several pairs at once."""
        self._run(bps.mvr(*self._pairs(line)))

    @line_magic
    def ct(self, line: str) -> None:
        """Trigger and read devices and print what they say: `%ct power_v2`; without names, all that do not move."""
        names = line.split() or [name for name, device in self._session.devices.items() if is_detector(device)]
        readings: dict[str, Mapping[str, Any]] = {}
        self._run(_measure([self._session.devices[name] for name in names], readings))
        width = max(map(len, readings), default=0)
        for column, reading in readings.items():
            print(f"{column:<{width}}  {reading['value']}")

    @line_magic
    def wa(self, line: str) -> None:
        """Tell where all movable devices are: position and where they were sent."""
        names = line.split() or [name for name, device in self._session.devices.items() if is_movable(device)]
        for name in names:
            print(f"{name:<20}  {_place(self._session.devices[name])}")

    def _pairs(self, line: str) -> list[Any]:
        words = line.split()
        if not words or len(words) % 2:
            raise ValueError("give pairs of a device and a number, as in: %mov polarizer 45")
        pairs: list[Any] = []
        for name, number in zip(words[::2], words[1::2], strict=True):
            pairs += [self._session.devices[name], float(self._evaluate(number))]
        return pairs

    def _run(self, plan: Generator[Msg, Any, Any]) -> None:
        try:
            self._session.RE(plan)
        except RunEngineInterrupted:
            # A paused move has nothing to resume: the device was stopped.
            if self._session.RE.state == "paused":
                self._session.RE.abort()


def is_movable(device: Any) -> bool:
    """Whether a plan can move the device as a whole."""
    return isinstance(device, Movable)


def is_detector(device: Any) -> bool:
    """Whether the device can be read and does not move."""
    return isinstance(device, Readable) and not is_movable(device)


def _measure(devices: list[Any], readings: dict[str, Mapping[str, Any]]) -> Generator[Msg, Any, None]:
    for device in devices:
        if isinstance(device, Triggerable):
            yield from bps.trigger(device, group="ct")
    yield from bps.wait("ct")
    for device in devices:
        readings.update((yield from bps.read(device)))


def _place(device: Any) -> str:
    if isinstance(device, Locatable):
        location = call_in_bluesky_event_loop(maybe_await(device.locate()), LOCATE_TIMEOUT_S)
        return f"{location['readback']:g} (sent to {location['setpoint']:g})"
    return f"{device.position:g}" if hasattr(device, "position") else "no position"
