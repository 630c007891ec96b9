"""A pair of twins, and how both are read for one row of the stream `shadow`."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from bluesky.protocols import Readable, Status, Triggerable
from bluesky.utils import maybe_await

from coexistence import Connection

logger = logging.getLogger("plans.shadow")

READ_TIMEOUT_S = 5.0
FAILURES_BEFORE_GIVING_UP = 3


class CannotShadow(ValueError):
    """Two devices cannot be compared; `original` and `twin` are their names, `reason` says why."""

    def __init__(self, original: str, twin: str, reason: str) -> None:
        self.original, self.twin, self.reason = original, twin, reason
        super().__init__(f"'{twin}' cannot be the shadow of '{original}': {reason}")


@dataclass(frozen=True)
class ShadowPair:
    """An instrument in the generation that the experiment uses, and its twin in the other one.

    Both are only read: of what moves, that is the readback.

    Raises
    ------
    CannotShadow
        One of them cannot be read, both are the same, or they take images.
    """

    original: Any
    twin: Any

    def __post_init__(self) -> None:
        names = (str(self.original.name), str(self.twin.name))
        if self.original is self.twin or names[0] == names[1]:
            raise CannotShadow(*names, "they are the same device")
        for device in (self.original, self.twin):
            if not isinstance(device, Readable):
                raise CannotShadow(*names, f"'{device.name}' cannot be read")
            if callable(getattr(device, "collect_asset_docs", None)):
                raise CannotShadow(
                    *names,
                    "cameras make images, and exposing twice is no comparison; "
                    "compare one image of each before changing over",
                )


class PairReader:
    """What bluesky reads for a row: the values that a pair was just found to have."""

    parent = None

    def __init__(self, pair: ShadowPair) -> None:
        self.pair = pair
        self.name = f"{pair.twin.name}_shadow"
        self.hints: dict[str, Any] = {"fields": []}
        self.twin_first = False
        """Whether the next row is measured twin first; rows alternate."""
        self._keys: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self.has_values = False
        self._failures = 0
        self._columns: list[tuple[str, str]] = []

    @property
    def described(self) -> bool:
        """Whether the columns of the row are known."""
        return bool(self._keys)

    @property
    def given_up(self) -> bool:
        """Whether it failed too often to be tried again in this run."""
        return self._failures >= FAILURES_BEFORE_GIVING_UP

    def failed(self, reason: BaseException) -> None:
        """Take note that there is no reading."""
        self._failures += 1
        twin, original = self.pair.twin.name, self.pair.original.name
        if self.given_up:
            logger.warning("%s no longer shadows %s in this run: %s", twin, original, reason)
        else:
            logger.info("A shadow reading of %s by %s failed: %s", original, twin, reason)

    def take_descriptions(self, original: Mapping[str, Any], twin: Mapping[str, Any]) -> None:
        """Find the columns that both have, and make the data keys of the row."""
        self._columns = list(matching_columns(self.pair.original.name, original, self.pair.twin.name, twin))
        if not self._columns:
            self._failures = FAILURES_BEFORE_GIVING_UP
            logger.warning(
                "%s cannot shadow %s: they have no column in common", self.pair.twin.name, self.pair.original.name
            )
            return
        for column, twin_column in self._columns:
            key = _data_key(original[column])
            before, first, after, again = row_columns(twin_column)
            twin_key = _data_key(twin[twin_column])
            self._keys |= {before: key, first: twin_key, after: key, again: twin_key}

    def forget(self) -> None:
        """Have nothing but what stands for a value that could not be read."""
        now = time.time()
        self.has_values = False
        self._values = {
            name: {"value": math.nan if key["dtype"] == "number" else "", "timestamp": now}
            for name, key in self._keys.items()
        }

    def take(self, readings: Sequence[Mapping[str, Any]], error: BaseException | None = None) -> None:
        """Take what the original, the twin, the original and the twin again were found to read; empty is no reading."""
        if error is not None:
            self.failed(error)
        else:
            self._failures = 0
        self.has_values = any(readings)
        self.twin_first = not self.twin_first
        for column, twin_column in self._columns:
            columns = (column, twin_column, column, twin_column)
            for name, source, reading in zip(row_columns(twin_column), columns, readings, strict=True):
                if not reading:
                    continue
                number = self._keys[name]["dtype"] == "number"
                value = float(reading[source]["value"]) if number else str(reading[source]["value"])
                self._values[name] = {"value": value, "timestamp": reading[source]["timestamp"]}

    def read(self) -> dict[str, Any]:
        """Return the values of the row."""
        return dict(self._values)

    def describe(self) -> dict[str, Any]:
        """Return the data keys of the row."""
        return dict(self._keys)


def row_columns(twin_column: str) -> tuple[str, str, str, str]:
    """Return the columns of a row in the order in which they were measured: original, twin, original, twin."""
    return f"{twin_column}_original_before", twin_column, f"{twin_column}_original_after", f"{twin_column}_again"


def matching_columns(
    original: str, original_keys: Iterable[str], twin: str, twin_keys: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the columns of an instrument and of its twin that mean the same: they differ in the name in front only."""
    for column in original_keys:
        if column == original or column.startswith(f"{original}_"):
            twin_column = twin + column.removeprefix(original)
            if twin_column in twin_keys and not twin_keys[twin_column].get("shape"):
                yield column, twin_column


def _data_key(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key of a column that may have to say that there is no value: integers become numbers."""
    if key.get("dtype") in ("number", "integer"):
        kept = {name: value for name, value in key.items() if name not in ("dtype", "dtype_numpy")}
        return {**kept, "dtype": "number", "dtype_numpy": "<f8"}
    return {"source": key["source"], "dtype": "string", "shape": []}


class Sandwich:
    """Measures the original and the twin in turn, twice, on the RunEngine's loop.

    `readings` are in the order original, twin, original, twin; with `twin_first` they were measured the other way
    round. One that failed is empty.
    """

    def __init__(self, original: Any, twin: Any, *, described: bool, twin_first: bool) -> None:
        self._devices = (original, twin, original, twin)
        self._order = (1, 0, 3, 2) if twin_first else (0, 1, 2, 3)
        self._described = described
        self.readings: list[Mapping[str, Any]] = []
        self.keys: list[Mapping[str, Any]] = []
        self.error: Exception | None = None

    async def measure(self) -> None:
        """Fill `readings` and `keys`, and `error` when one failed; cancelled, what was begun ends by itself."""
        self.readings, self.keys, self.error = [{}] * len(self._devices), [], None
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                for place in self._order:
                    await self._measure_one(place)
                if not self._described and self.error is None:
                    self.keys = [await maybe_await(device.describe()) for device in self._devices[:2]]
        except TimeoutError as error:
            self.error = error if str(error) else TimeoutError(f"no reading within {READ_TIMEOUT_S:g} s")
        except Exception as error:
            self.error = error

    async def _measure_one(self, place: int) -> None:
        """Fill one of the readings: that it failed says something of this device, and nothing of the other."""
        device = self._devices[place]
        try:
            if isinstance(device, Triggerable):
                await done(device.trigger())
            self.readings[place] = await maybe_await(device.read())
        except Exception as error:
            self.error = self.error or error


async def done(status: Status) -> None:
    """Wait for a status of either generation, and raise what it failed with."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def note(_: Status) -> None:
        loop.call_soon_threadsafe(done.set)

    status.add_callback(note)
    await done.wait()
    if (error := status.exception()) is not None:
        raise error


@contextmanager
def in_the_background(*devices: Any) -> Iterator[None]:
    """Let the requests of devices wait for everybody else's, where a wire is shared."""
    with ExitStack() as ranks:
        for device in devices:
            connection = getattr(device, "connection", None)
            if isinstance(connection, Connection):
                ranks.enter_context(connection.in_the_background())
        yield
