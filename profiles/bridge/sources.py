"""Where measurements come from: subscriptions of devices of either generation, and documents of runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bluesky.utils import maybe_await

from coexistence import Connection
from coexistence.config import Generation
from profiles.bridge.bridge import MeasurementBridge
from profiles.bridge.measurement import FrameReference, UnifiedMeasurement

logger = logging.getLogger("profiles.bridge")

LOOP_TIMEOUT_S = 5.0


class DocumentSource:
    """Measurements of runs, from their documents: `RE.subscribe(DocumentSource(bridge))`.

    It tells run and stream, also of what a device's own subscription has told already. Streams that repeat what others
    measured (`shadow`, results of plans) are left out.
    """

    def __init__(self, bridge: MeasurementBridge, leave_out: tuple[str, ...] = ("shadow", "wires")) -> None:
        self._bridge = bridge
        self._leave_out = leave_out
        self._runs: dict[str, Mapping[str, Any]] = {}
        self._descriptors: dict[str, Mapping[str, Any]] = {}
        self._columns: dict[str, dict[str, tuple[str, str]]] = {}
        self._resources: dict[str, Mapping[str, Any]] = {}

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take the next document of a run."""
        if name == "start":
            self._runs[document["uid"]] = document
        elif name == "descriptor":
            self._take_descriptor(document)
        elif name == "event":
            self._take_event(document)
        elif name == "event_page":
            from event_model import unpack_event_page

            for event in unpack_event_page(document):  # type: ignore[arg-type]
                self._take_event(event)
        elif name == "stream_resource":
            self._resources[document["uid"]] = document
        elif name == "stream_datum":
            self._take_frames(document)
        elif name == "stop":
            self._forget(document["run_start"])

    def _take_descriptor(self, document: Mapping[str, Any]) -> None:
        stream = document.get("name", "primary")
        if stream in self._leave_out or stream.startswith("result_"):
            return
        self._descriptors[document["uid"]] = document
        owners = document.get("object_keys", {})
        self._columns[document["uid"]] = {
            column: _split(column, owner) for owner, columns in owners.items() for column in columns
        }

    def _take_event(self, event: Mapping[str, Any]) -> None:
        descriptor = self._descriptors.get(event["descriptor"])
        if descriptor is None:
            return
        self._bridge.publish_together(
            [
                self._measurement(descriptor, column, value, event["timestamps"][column])
                for column, value in event["data"].items()
                if "external" not in descriptor["data_keys"][column]
            ]
        )

    def _take_frames(self, datum: Mapping[str, Any]) -> None:
        resource, descriptor = self._resources.get(datum["stream_resource"]), self._descriptors.get(datum["descriptor"])
        if resource is None or descriptor is None:
            return
        frames = FrameReference(resource["uri"], datum["indices"]["start"], datum["indices"]["stop"])
        self._bridge.publish(self._measurement(descriptor, resource["data_key"], frames, descriptor["time"]))

    def _measurement(
        self, descriptor: Mapping[str, Any], column: str, value: Any, timestamp: float
    ) -> UnifiedMeasurement:
        run = self._runs.get(descriptor["run_start"], {})
        instrument, signal = self._columns[descriptor["uid"]].get(column, (column, ""))
        known = run.get("instruments", {}).get(instrument, {})
        return UnifiedMeasurement(
            instrument,
            signal,
            value,
            timestamp,
            descriptor["data_keys"][column].get("units"),
            known.get("generation"),
            descriptor["run_start"],
            descriptor.get("name", "primary"),
        )

    def _forget(self, run: str) -> None:
        self._runs.pop(run, None)
        for uid in [uid for uid, document in self._descriptors.items() if document["run_start"] == run]:
            del self._descriptors[uid], self._columns[uid]
        for uid in [uid for uid, document in self._resources.items() if document.get("run_start") == run]:
            del self._resources[uid]


def watch_device(
    bridge: MeasurementBridge,
    device: Any,
    loop: asyncio.AbstractEventLoop,
    *,
    generation: Generation | None = None,
    period_s: float | None = None,
    unless: Callable[[], bool] = lambda: False,
) -> Callable[[], None]:
    """Publish what a device measures, and return a function that ends it.

    Signals of ophyd-async devices are monitored, which polls those on a wire only meanwhile and only when the wire is
    free. Devices of ophyd tell what somebody measures; with `period_s` they are measured that often, in s, when their
    wire is free.

    Parameters
    ----------
    bridge
        Where to.
    device
        A device of either generation.
    loop
        The RunEngine's event loop.
    generation
        What the measurements say they come from.
    period_s
        How often a device of ophyd is measured, in s; None leaves that to others.
    unless
        Asked before each such measurement, which is left out while it says True: while a plan runs.

    Raises
    ------
    TimeoutError
        The loop did not answer.
    """
    if hasattr(device, "walk_signals"):
        return _watch_ophyd(bridge, device, generation, period_s, unless)
    return _watch_ophyd_async(bridge, device, loop, generation)


def _watch_ophyd(
    bridge: MeasurementBridge,
    device: Any,
    generation: Generation | None,
    period_s: float | None,
    unless: Callable[[], bool],
) -> Callable[[], None]:
    units: dict[str, str | None] = {}
    tokens: list[tuple[Any, int]] = []

    def tell(*_: Any, value: Any, timestamp: float, obj: Any, **__: Any) -> None:
        if obj.name not in units:
            with contextlib.suppress(Exception):  # it has not measured yet, or its wire is away: told without a unit
                units[obj.name] = obj.describe()[obj.name].get("units")
        instrument, signal = _split(obj.name, device.name)
        bridge.publish(UnifiedMeasurement(instrument, signal, value, timestamp, units.get(obj.name), generation))

    for signal in _read_signals(device):
        tokens.append((signal, signal.subscribe(tell, event_type=signal.SUB_VALUE, run=False)))
    stop = _measured_every(device, period_s, unless) if period_s is not None else _nothing

    def end() -> None:
        stop()
        for signal, token in tokens:
            signal.unsubscribe(token)

    return end


def _read_signals(device: Any) -> Iterator[Any]:
    """Yield the signals of an ophyd device whose values are in its readings."""
    from ophyd import Kind, Signal

    if isinstance(device, Signal):
        yield device
        return
    for _, component in device._get_components_of_kind(Kind.normal):
        yield from _read_signals(component)


def _measured_every(device: Any, period_s: float, unless: Callable[[], bool]) -> Callable[[], None]:
    """Have a device of ophyd measured again and again, after everybody else on its wire."""
    if not callable(getattr(device, "trigger", None)):
        return _nothing
    ended = threading.Event()

    def measure() -> None:
        while not ended.wait(period_s):
            if unless():
                continue
            try:
                with _in_the_background(device):
                    device.trigger().wait(timeout=LOOP_TIMEOUT_S)
            except Exception as error:
                logger.debug("%s was not measured: %s", device.name, error)

    thread = threading.Thread(target=measure, name=f"watch {device.name}", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join(LOOP_TIMEOUT_S)

    return end


def _in_the_background(device: Any) -> contextlib.AbstractContextManager[None]:
    connection = getattr(device, "connection", None)
    return connection.in_the_background() if isinstance(connection, Connection) else contextlib.nullcontext()


def _watch_ophyd_async(
    bridge: MeasurementBridge, device: Any, loop: asyncio.AbstractEventLoop, generation: Generation | None
) -> Callable[[], None]:
    from ophyd_async.core import StandardDetector

    if isinstance(device, StandardDetector):
        return _nothing  # its frames are taken in runs, whose documents tell of them
    watched: list[tuple[Any, Callable[..., None]]] = []

    async def begin() -> None:
        described = await maybe_await(device.describe())
        for signal in _signals_of(device):
            if signal.name in described:
                watched.append((signal, teller(signal.name, described[signal.name].get("units"))))
                signal.subscribe_reading(watched[-1][1])

    def teller(column: str, units: str | None) -> Callable[..., None]:
        instrument, name = _split(column, device.name)

        def tell(reading: Mapping[str, Any]) -> None:
            for found in reading.values():
                bridge.publish(
                    UnifiedMeasurement(instrument, name, found["value"], found["timestamp"], units, generation)
                )

        return tell

    async def end() -> None:
        for signal, listener in watched:
            signal.clear_sub(listener)

    def finish() -> None:
        with contextlib.suppress(RuntimeError, TimeoutError):  # the session has ended, and all subscriptions with it
            asyncio.run_coroutine_threadsafe(end(), loop).result(LOOP_TIMEOUT_S)

    asyncio.run_coroutine_threadsafe(begin(), loop).result(LOOP_TIMEOUT_S)
    return finish


def _signals_of(device: Any) -> Iterator[Any]:
    """Yield all signals of an ophyd-async device."""
    if hasattr(device, "subscribe_reading"):
        yield device
    for _, child in device.children():
        yield from _signals_of(child)


def _split(column: str, instrument: str) -> tuple[str, str]:
    """Return instrument and signal of a column."""
    if column == instrument or not column.startswith(f"{instrument}_"):
        return instrument if column == instrument else column, ""
    return instrument, column.removeprefix(f"{instrument}_")


def _nothing() -> None:
    pass
