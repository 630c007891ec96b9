"""A session's measurements as they come: for its own code, for other terminals, for other programs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from bluesky import RunEngine

from coexistence.config import Generation
from profiles.bridge import DocumentSource, MeasurementBridge, Subscription, UnifiedMeasurement, watch_device
from profiles.bridge.documents import forward

logger = logging.getLogger("profiles.bridge")

CONNECTING_S = 1.0
"""0MQ connects meanwhile, and throws away what is sent before it has."""

PERIOD_S = 0.5
RECENT_S = 5.0
UNWATCHED_AFTER_S = 5.0


class LiveMeasurements:
    """Everything that both generations measure, inside and outside of runs.

    Nothing is asked of an instrument for this as long as nobody watches. While somebody does, v4 signals are monitored
    and v2 instruments measured again and again, both only when their wire is free, and v2 not while a plan runs.

    Attributes
    ----------
    bridge
        Where all measurements pass; `bridge.subscribe()` receives those of runs and what others measure.
    """

    def __init__(
        self, run_engine: RunEngine, devices: Mapping[str, Any], generations: Callable[[], Mapping[str, Generation]]
    ) -> None:
        self.bridge = MeasurementBridge()
        self._run_engine = run_engine
        self._devices = devices
        self._generations = generations
        self._watchers = 0
        self._ends: list[Callable[[], None]] = []
        self._changing = threading.Lock()
        self._recent = _RecentMeasurements(self)
        self._token = run_engine.subscribe(DocumentSource(self.bridge))

    @contextlib.contextmanager
    def watched(
        self, *, period_s: float = PERIOD_S, select: Callable[[UnifiedMeasurement], bool] | None = None
    ) -> Iterator[Subscription]:
        """Have all connected instruments measure while the block goes on, and receive what they say.

        Parameters
        ----------
        period_s
            How often v2 instruments are measured, in s; the first of several who watch decides.
        select
            Which measurements to receive; None for all.
        """
        with self.bridge.subscribe(select=select) as subscription:
            self._begin(period_s)
            try:
                yield subscription
            finally:
                self._end()

    def recent(self) -> list[dict[str, Any]]:
        """Return the measurements of the last seconds as plain data; for other terminals.

        Asking has the instruments measured until 5 s after the last question.
        """
        return self._recent.take()

    def publish(self, address: str) -> Callable[[], None]:
        """Send all measurements to a 0MQ proxy of bluesky, and return what ends that.

        A `RemoteDispatcher` on the proxy's other end receives them as documents, see
        :class:`profiles.bridge.documents.MeasurementDocuments`.

        Parameters
        ----------
        address
            Of the proxy's input, such as `localhost:5577`.

        Raises
        ------
        ValueError
            That is no address.
        """
        from bluesky.callbacks.zmq import Publisher

        _check_address(address)
        publisher = Publisher(address)
        end_forwarding = forward(self.bridge, publisher, after_s=CONNECTING_S)
        self._begin(PERIOD_S)

        def end() -> None:
            self._end()
            end_forwarding()
            publisher.close()

        return end

    def close(self) -> None:
        """Ask nothing any more, and end all subscriptions."""
        self._recent.close()
        self._run_engine.unsubscribe(self._token)
        with self._changing:
            self._stop_watching()
        self.bridge.close()

    def _begin(self, period_s: float) -> None:
        with self._changing:
            self._watchers += 1
            if self._watchers > 1:
                return
            generations = self._generations()
            for name, device in dict(self._devices).items():
                try:
                    end = watch_device(
                        self.bridge,
                        device,
                        self._run_engine.loop,
                        generation=generations.get(name),
                        period_s=period_s,
                        unless=lambda: self._run_engine.state != "idle",
                    )
                except (Exception, asyncio.CancelledError) as error:
                    logger.warning("%s cannot be watched: %s", name, error)
                else:
                    self._ends.append(end)

    def _end(self) -> None:
        with self._changing:
            self._watchers -= 1
            if self._watchers == 0:
                self._stop_watching()

    def _stop_watching(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            try:
                end()
            except Exception:
                logger.exception("Watching a device did not end in order")


def _check_address(address: str) -> None:
    """Try an address on a socket that is closed again: a publisher that fails half made blocks where it is collected.

    Raises
    ------
    ValueError
        It is none.
    """
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.linger = 0
        try:
            socket.connect(f"tcp://{address.removeprefix('tcp://')}")
        except zmq.ZMQError as error:
            problem: Exception = error
        else:
            return
    raise ValueError(
        f"{address!r} is no address of a 0MQ proxy: write host:port of its input, such as localhost:5577"
    ) from problem


class _RecentMeasurements:
    """The last seconds of measurements, kept while somebody asks for them."""

    def __init__(self, measurements: LiveMeasurements) -> None:
        self._measurements = measurements
        self._items: deque[UnifiedMeasurement] = deque(maxlen=5000)
        self._asked = 0.0
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def take(self) -> list[dict[str, Any]]:
        with self._lock:
            self._asked = time.monotonic()
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._collect, name="recent measurements", daemon=True)
                self._thread.start()
        since = time.time() - RECENT_S
        return [_plain(item) for item in list(self._items) if item.timestamp >= since]

    def close(self) -> None:
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join(UNWATCHED_AFTER_S)

    def _collect(self) -> None:
        with self._measurements.watched() as subscription:
            while not self._closed.wait(0.1):
                with self._lock:
                    if time.monotonic() - self._asked > UNWATCHED_AFTER_S:
                        self._thread = None
                        break
                self._items.extend(item for item in subscription.take_all() if isinstance(item, UnifiedMeasurement))
        self._items.clear()


def _plain(item: UnifiedMeasurement) -> dict[str, Any]:
    """Return a measurement as JSON knows it; of arrays and images their shape and mean."""
    value = item.value
    if item.kind != "scalar":
        numbers = np.asarray(value) if isinstance(value, list | tuple | np.ndarray) and item.kind == "array" else None
        value = None if numbers is None or not numbers.size else float(np.mean(numbers))
    elif isinstance(value, np.generic):
        value = value.item()
    return {
        "column": item.column,
        "kind": item.kind,
        "value": value,
        "timestamp": item.timestamp,
        "units": item.units,
        "generation": item.generation,
        "run": item.run,
        "stream": item.stream,
    }
