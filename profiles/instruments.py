"""The configured instruments of both generations as the runtime starts, asks, stops and closes them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from coexistence import AcquireTimeout, Rank
from coexistence.config import Generation, InstrumentConfig
from coexistence.errors import CoexistenceError
from coexistence.runtime import ConnectTimeout
from devices.protocols.errors import ProtocolError
from profiles.keep_alive import KeepAlive

logger = logging.getLogger("profiles.instruments")

CONNECT_GRACE_S = 0.25
"""What a v4 device gets beyond its own time limit to report how it failed; the runtime waits a little longer."""

STAND_STILL_S = 10.0
"""How long a stopped motion may take to come to its end."""

LEAVE_S = 2.0
"""How long it may take to bring an instrument into the state in which it is left."""

_LOOK_S = 0.01

Build = Callable[[InstrumentConfig, Generation], Any]


class InstrumentFailed(CoexistenceError):
    """An instrument did not connect; the message names it, its wire, the reason and what to do."""

    def __init__(self, instrument: Instrument, reason: str) -> None:
        config = instrument.config
        self.instrument_id = config.id
        self.generation = instrument.generation
        self.wire = config.wire
        self.reason = reason
        where = f" on {config.wire}" if config.wire else ""
        super().__init__(f"{config.id} ({instrument.generation} {config.type}{where}): {reason}")


class InstrumentsFailed(CoexistenceError):
    """Some instruments did not connect; `failures` has one error each."""

    def __init__(self, failures: list[InstrumentFailed]) -> None:
        self.failures = tuple(failures)
        super().__init__("\n".join(str(failure) for failure in failures))


class StartSuperseded(Exception):
    """A start that was given up has come to its end after a later one has taken its place."""

    def __init__(self) -> None:
        super().__init__("a later start has taken the place of this one")


class Instrument:
    """One configured instrument and what became of it.

    Parameters
    ----------
    generation, config
        What is configured.
    build
        Makes its device.

    Attributes
    ----------
    device
        The device, once it was made; another one after the instrument was restarted because it hung.
    error
        Why it cannot be used, or None.
    connect_time_s
        How long connecting took (s).
    """

    generation: Generation

    def __init__(self, config: InstrumentConfig, build: Build) -> None:
        self.config = config
        self.device: Any = None
        self.error: InstrumentFailed | None = None
        self.connect_time_s = 0.0
        self._build = build
        self._keep_alive: KeepAlive | None = None
        self._former: Any = None
        """What talked to the instrument before a restart that has brought no new device yet."""
        self._made = 0

    @property
    def name(self) -> str:
        """The id."""
        return self.config.id

    @property
    def connect_timeout(self) -> float:
        """Longest time a start may take (s)."""
        return self.config.connect_timeout

    @property
    def connected(self) -> bool:
        """Whether the device can be used."""
        return self.device is not None and self.error is None

    def failure(self, error: BaseException) -> InstrumentFailed:
        """Return why the instrument failed, by name, in one sentence, with what caused it."""
        if isinstance(error, InstrumentFailed):
            return error
        reasons = dict.fromkeys(str(cause).strip() or type(cause).__name__ for cause in _root_causes(error))
        failure = InstrumentFailed(self, "; ".join(reasons))
        failure.__cause__ = error
        logger.info("%s", failure, exc_info=error)
        return failure

    def _make(self, fresh: bool) -> Any:
        if fresh or self.device is None:
            self._former = self._speaker()
            old, self.device = self.device, None
            with contextlib.suppress(Exception):  # it went wrong before
                _destroy(old)
            self._made += 1
            number = self._made
            device = self._build(self.config, self.generation)
            if number != self._made:
                with contextlib.suppress(Exception):
                    _destroy(device)
                raise StartSuperseded
            self.device = device
            former, self._former = self._former, None
            succeed = getattr(getattr(self._speaker(), "protocol", None), "succeed", None)
            if former is not None and succeed is not None:
                succeed(former.protocol)
        return self.device

    @property
    def _moving_parts(self) -> list[Any]:
        # What a device from elsewhere does may be somebody else's: a plan has stopped what it moved itself.
        parts = [] if self.device is None or self.config.is_foreign else list(_parts_of(self.device))
        return [part for part in parts if callable(getattr(part, "stop", None))]

    def _is_moving(self) -> bool:
        return any(getattr(part, "moving", False) for part in self._moving_parts)

    def _speaker(self) -> Any:
        """Return what talks to the instrument: a v2 driver or the connector of a v4 device, if it is one of ours."""
        for holder in (getattr(self.device, "driver", None), getattr(self.device, "_connector", None)):
            if hasattr(holder, "dialogue") and hasattr(holder, "protocol"):
                return holder
        return self._former if self.device is None else None

    def _begin_keeping_alive(self, device: Any) -> None:
        if device is not self.device:
            raise StartSuperseded
        self._end_keeping_alive()
        speaker = self._speaker()
        if getattr(getattr(speaker, "protocol", None), "longest_silence_s", None):
            self._keep_alive = KeepAlive(self.name, speaker.dialogue, speaker.protocol)

    def _end_keeping_alive(self) -> None:
        if self._keep_alive is not None:
            self._keep_alive.end()
            self._keep_alive = None

    def _before_leaving(self) -> Any:
        """Return what has to be said to the instrument before it is left; None when nothing has."""
        return getattr(getattr(self._speaker(), "protocol", None), "before_leaving", None)

    def _tell_left_unsafe(self, error: Exception) -> None:
        logger.critical("%s is not left as it should be: %s Look after it by hand.", self.name, error)

    def _unasked_health(self) -> str:
        """Return how an instrument is that need not or cannot be asked; empty when it can."""
        if self.device is None:
            return "there is no device"
        if self._is_moving():
            return "it moves"
        if self._speaker() is None:
            return "connected"
        return ""


class V2Instrument(Instrument):
    """An instrument with a blocking driver; every call is made on a thread that may be left behind."""

    generation: Generation = "v2"

    def start(self, fresh: bool) -> None:
        """Make the device when there is none, or when the old one hangs, and connect it."""
        try:
            device = self._make(fresh)
            began = time.monotonic()
            if callable(getattr(device, "connect", None)):
                device.connect()
            elif callable(getattr(device, "wait_for_connection", None)):
                device.wait_for_connection(timeout=self.connect_timeout)
            self.connect_time_s = time.monotonic() - began
            self._begin_keeping_alive(device)
        except Exception as error:
            raise self.failure(error) from error

    def stop(self) -> None:
        """Stop what moves and wait until it stands."""
        self._end_keeping_alive()
        for part in self._moving_parts:
            part.stop(success=True)
        deadline = time.monotonic() + STAND_STILL_S
        while self._is_moving() and time.monotonic() < deadline:
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """Leave the instrument safe, and let go of the wire."""
        self._end_keeping_alive()
        if (begin := self._before_leaving()) is not None:
            try:
                self._speaker().dialogue.hold(begin, timeout=LEAVE_S)
            except (CoexistenceError, ProtocolError) as error:
                self._tell_left_unsafe(error)
        _destroy(self.device)

    def health(self) -> str:
        """Ask the instrument who it is, when nobody else uses its wire."""
        if said := self._unasked_health():
            return said
        speaker = self._speaker()
        try:
            return str(speaker.dialogue.hold(speaker.protocol.identify, rank=Rank.BACKGROUND))
        except AcquireTimeout as error:
            return _busy(error)


class V4Instrument(Instrument):
    """An instrument of the RunEngine's event loop."""

    generation: Generation = "v4"

    async def start(self, fresh: bool) -> None:
        """Make the device when there is none, or when the old one hangs, and connect it."""
        is_again = self.device is not None and not fresh
        try:
            device = self._make(fresh)
            began = time.monotonic()
            limit = self.connect_timeout
            async with asyncio.timeout(limit + CONNECT_GRACE_S):
                await device.connect(timeout=limit, force_reconnect=is_again)
            self.connect_time_s = time.monotonic() - began
            self._begin_keeping_alive(device)
        except TimeoutError as error:
            # A bare one is that of the waiting here, and says nothing by itself.
            raise self.failure(error if str(error) else ConnectTimeout(self.connect_timeout)) from error
        except Exception as error:
            raise self.failure(error) from error

    async def stop(self) -> None:
        """Stop what moves and wait until it stands."""
        self._end_keeping_alive()
        for part in self._moving_parts:
            stopping = part.stop(success=True)
            if asyncio.iscoroutine(stopping):
                await stopping
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STAND_STILL_S):
                while self._is_moving():  # noqa: ASYNC110 - nothing tells the end of a motion
                    await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Leave the instrument safe, and let go of the wire."""
        self._end_keeping_alive()
        if (begin := self._before_leaving()) is not None:
            try:
                await self._speaker().dialogue.hold_async(begin, timeout=LEAVE_S)
            except (CoexistenceError, ProtocolError) as error:
                self._tell_left_unsafe(error)
        _destroy(self.device)

    async def health(self) -> str:
        """Ask the instrument who it is, when nobody else uses its wire."""
        if said := self._unasked_health():
            return said
        speaker = self._speaker()
        try:
            return str(await speaker.dialogue.hold_async(speaker.protocol.identify, rank=Rank.BACKGROUND))
        except AcquireTimeout as error:
            return _busy(error)


def _busy(error: AcquireTimeout) -> str:
    return f"busy: its wire is used by {error.held_by or 'others'}"


def _destroy(device: Any) -> None:
    if device is not None and callable(getattr(device, "destroy", None)):
        device.destroy()


def _parts_of(device: Any) -> Iterator[Any]:
    """Yield a device and what it consists of: axes and rotators are devices of their own in both generations."""
    yield device
    if callable(getattr(device, "walk_subdevices", None)):
        yield from (part for _, part in device.walk_subdevices())
    elif callable(getattr(device, "children", None)):
        for _, child in device.children():
            yield from _parts_of(child)


def _root_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what went wrong below ophyd-async's NotConnectedError, which nests one error for each signal."""
    if not isinstance(error, _not_connected_error()):
        yield error
    elif error.sub_errors:
        for nested in error.sub_errors.values():
            yield from _root_causes(nested)
    else:
        yield error.__cause__ or error


def _not_connected_error() -> Any:
    core = sys.modules.get("ophyd_async.core")  # a session without v4 does not import it
    return core.NotConnectedError if core is not None else ()
