"""IPython commands for a session's devices, wires and runs: `%mov %movr %ct %wa %wires %health %runs`.

bluesky's own magics bring a RunEngine and an event loop of their own, and show no position of an ophyd-async device.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
from bluesky import RunEngineInterrupted
from bluesky.protocols import Locatable, Movable, Stageable, Triggerable
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus, Msg, maybe_await
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class
from rich.console import Console

from coexistence.errors import CoexistenceError
from devices.protocols.errors import ProtocolError
from plans.checks import PlanError
from profiles.health_report import print_health
from profiles.interruption import AbortOnInterrupt
from profiles.parts import detectors, find_part, movables
from profiles.runs import list_runs
from profiles.session import Session
from profiles.wire_report import print_wires, wires_as_json

logger = logging.getLogger("profiles.magics")

ANSWER_TIMEOUT_S = 5.0
PLACE_TIMEOUT_S = 3.0
"""How long a device may take to say where it is, before it is listed without that."""
LISTED_RUNS = 10
PATIENCE_S = 1.0
"""After how long a user is told what is waited for."""

TOLD_IN_A_LINE = (FailedStatus, CoexistenceError, ProtocolError, PlanError)
"""Troubles whose message says what to do; the way through bluesky to them helps nobody at a prompt."""


@magics_class
class SessionMagics(Magics):
    """Short commands for a session; nothing they read is recorded."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell=shell)
        self._evaluate = shell.ev
        self._session = session

    @line_magic
    def mov(self, line: str) -> None:
        """Move to positions: `%mov polarizer 45`, several pairs at once, axes as `%mov stages.axis[1] 2`."""
        self._run(bps.mv(*self._pairs(line, "%mov polarizer 45")))

    @line_magic
    def movr(self, line: str) -> None:
        """Move by distances: `%movr polarizer 5`, several pairs at once."""
        self._run(bps.mvr(*self._pairs(line, "%movr polarizer 5")))

    @line_magic
    def ct(self, line: str) -> None:
        """Measure and print: `%ct power_v2`; without names all that do not move, cameras left out."""
        devices = self._chosen(line) if line.split() else dict(detectors(self._session.devices))
        if not devices:
            print("Nothing here measures.")
        readings: dict[str, Mapping[str, Any]] = {}
        troubles: dict[str, str] = {}
        try:
            ended = self._run(_measure(list(devices.values()), readings))
        except UsageError:
            if len(devices) == 1:
                raise
            ended = self._measure_each(devices, readings, troubles)
        if devices and ended and not readings and not troubles:
            print(f"Nothing is measured by {', '.join(devices)}: the configuration declares no signals.")
        width = max(map(len, readings), default=0)
        units = self._units([device for name, device in devices.items() if name not in troubles])
        for column, reading in readings.items():
            print(f"{column:<{width}}  {reading['value']} {units.get(column, '')}".rstrip())
        for name, trouble in troubles.items():
            print(f"{name} is not measured: {trouble}")

    @line_magic
    def wa(self, line: str) -> None:
        """Tell where everything is that can move, and where it was sent: `%wa`, `%wa polarizer`."""
        chosen = self._chosen(line) if line.split() else self._session.devices
        found = dict(movables(chosen))
        if not found:
            print("Nothing of it can move." if line.split() else "Nothing here can move.")
            return
        width = max(map(len, found))
        for name, place in zip(found, _answer_of(lambda: _places(found.values())), strict=True):
            print(f"{name:<{width}}  {place}")

    @line_magic
    def wires(self, _: str) -> None:
        """Tell who holds each wire, who waits for it since when, and what happened on it so far."""
        print_wires(wires_as_json(self._session.resources), Console())

    @line_magic
    def health(self, _: str) -> None:
        """Ask each instrument how it is, and tell what the session uses of the computer."""
        print_health(self._session.manager.check_health().as_json(), Console())

    @line_magic
    def runs(self, line: str) -> None:
        """List the latest runs, newest first: `%runs`, `%runs 30`."""
        number = line.strip() or str(LISTED_RUNS)
        if not number.isdigit() or not int(number):
            raise UsageError(f"give the number of runs to list, as in %runs 30, not {number!r}")
        waiting = threading.Timer(PATIENCE_S, print, ["Opening the catalog; the runs follow."])
        waiting.daemon = True
        waiting.start()
        try:
            runs = self._session.catalog
        finally:
            waiting.cancel()
        list_runs(self._session.data_dir, int(number), catalog=runs)

    def _chosen(self, line: str) -> dict[str, Any]:
        return {name: self._part(name) for name in line.split()}

    def _part(self, name: str) -> Any:
        try:
            return find_part(self._session.devices, name)
        except (KeyError, ValueError) as unknown:
            raise UsageError(str(unknown.args[0])) from None

    def _pairs(self, line: str, example: str) -> list[Any]:
        words = line.split()
        if not words or len(words) % 2:
            raise UsageError(f"give pairs of a device and a number, as in: {example}")
        pairs: list[Any] = []
        for name, number in zip(words[::2], words[1::2], strict=True):
            device = self._part(name)
            if not isinstance(device, Movable):
                parts = ", ".join(part for part, _ in movables({name: device}))
                raise UsageError(f"{name} is nothing that moves" + (f"; of it move: {parts}" if parts else ""))
            pairs += [device, self._number(number, example)]
        return pairs

    def _number(self, text: str, example: str) -> float:
        try:
            return float(self._evaluate(text))
        except Exception as error:  # whatever an expression of the user's raises
            raise UsageError(f"{text!r} is no number ({error}); write it as in: {example}") from None

    def _measure_each(
        self, devices: Mapping[str, Any], readings: dict[str, Mapping[str, Any]], troubles: dict[str, str]
    ) -> bool:
        """Measure devices one after the other, so that one that fails hides no other; False after Ctrl-C."""
        for name, device in devices.items():
            try:
                if not self._run(_measure([device], readings)):
                    return False
            except UsageError as trouble:
                troubles[name] = str(trouble)
        return True

    def _run(self, plan: Generator[Msg, Any, Any]) -> bool:
        """Run a plan to its end; False when Ctrl-C has ended it before."""
        run_engine = self._session.RE
        if run_engine.state != "idle":
            plan.close()
            raise UsageError(f"a plan is {run_engine.state}; RE.resume(), RE.abort() or RE.stop() comes first")
        # A motion has no checkpoint at which it could pause: here Ctrl-C stops what moves.
        usual, run_engine.context_managers = run_engine.context_managers, [AbortOnInterrupt]
        try:
            with _trouble_in_a_line():
                run_engine(plan)
            return True
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C.")
        except RunEngineInterrupted:
            # A paused move has nothing to resume: the device was stopped.
            if run_engine.state == "paused":
                run_engine.abort()
        finally:
            run_engine.context_managers = usual
        return False

    def _units(self, devices: Sequence[Any]) -> dict[str, str]:
        units: dict[str, str] = {}
        for device in devices:
            with _trouble_in_a_line():
                described = _answer_of(device.describe)
            units |= {column: key["units"] for column, key in described.items() if key.get("units")}
        return units


def complete_with_parts(session: Session, movable_only: bool) -> Any:
    """Return what completes the arguments of a command with names of devices, or of what can move."""

    def complete(_shell: Any, _event: Any) -> list[str]:
        names = [name for name, _ in movables(session.devices)]
        return names if movable_only else [*dict.fromkeys([*session.devices, *names])]

    return complete


def _measure(devices: list[Any], readings: dict[str, Mapping[str, Any]]) -> Generator[Msg, Any, None]:
    stageable = [device for device in devices if isinstance(device, Stageable)]
    try:
        for device in stageable:
            yield from bps.stage(device, group="stage", wait=False)
        yield from bps.wait("stage")
        for device in devices:
            if isinstance(device, Triggerable):
                yield from bps.trigger(device, group="ct")
        yield from bps.wait("ct")
        for device in devices:
            readings.update((yield from bps.read(device)))
    finally:
        yield from bps.unstage_all(*stageable)


@contextmanager
def _trouble_in_a_line() -> Iterator[None]:
    """Tell what an instrument or its wire has against a command without the stack of the plan; the log has that."""
    try:
        yield
    except (*TOLD_IN_A_LINE, ValueError) as error:
        reason = _reason(error)
        logger.info("A command failed", exc_info=error)
        raise UsageError(f"{type(reason).__name__}: {reason}") from None


def _reason(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, FailedStatus) and error.__cause__ is not None else error


def _tell_in_a_line(shell: Any, _type: Any, error: BaseException, traceback: Any, **_: Any) -> None:
    reason = _reason(error)
    shell.showtraceback((type(reason), reason, traceback), exception_only=True)


def _answer_of(method: Any) -> Any:
    """Return what a device of either generation answers."""
    return call_in_bluesky_event_loop(_awaited(method), ANSWER_TIMEOUT_S)


async def _places(devices: Iterable[Any]) -> list[str]:
    """Return where each device is, all asked at the same time; what cannot be told is said in its place."""
    return await asyncio.gather(*map(_place, devices))


async def _place(device: Any) -> str:
    try:
        async with asyncio.timeout(PLACE_TIMEOUT_S):
            if isinstance(device, Locatable):
                location = await maybe_await(device.locate())
                place = f"{location['readback']:g} (sent to {location['setpoint']:g})"
            else:
                place = f"{device.position:g}"
            described = await maybe_await(device.describe())
    except Exception as error:
        logger.info("Where is %s?", device.name, exc_info=error)
        return f"not known: {str(error) or f'no answer within {PLACE_TIMEOUT_S:g} s'}"
    unit = described.get(device.name, {}).get("units")
    return f"{place} {unit or ''}".rstrip()


async def _awaited(method: Any) -> Any:
    return await maybe_await(method())


def register(shell: Any, session: Session) -> None:
    """Give an IPython shell the commands, the completion of their arguments, and troubles told in a line."""
    shell.set_custom_exc(TOLD_IN_A_LINE, _tell_in_a_line)
    shell.register_magics(SessionMagics(shell, session))
    for command, movable_only in {"mov": True, "movr": True, "wa": True, "ct": False}.items():
        complete = partial(complete_with_parts(session, movable_only))
        shell.set_hook("complete_command", complete, str_key=f"%{command}")
