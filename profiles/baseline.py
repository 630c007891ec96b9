"""The baseline: what every device said at the beginning and at the end of a run, whatever the run itself measures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterable, Mapping
from typing import Any

from bluesky.preprocessors import SupplementalData, plan_mutator
from bluesky.protocols import Readable, Triggerable
from bluesky.utils import Msg, maybe_await

from devices.statuses import ended

logger = logging.getLogger("profiles.baseline")

STREAM = "baseline"
TIMEOUT_S = 3.0
"""How long a device may take for the baseline, before it is left out."""


class ForgivingSupplementalData(SupplementalData):
    """bluesky's `SupplementalData` with a baseline that does not fail a run, and costs what its slowest device does.

    All devices of `baseline` measure at the same time. One that cannot is left out of this run's baseline, with a
    warning; the run goes on. The second reading has the devices of the first, and is left out when one of them
    cannot be read any more, or the run ends early.
    """

    def __call__(self, plan: Generator[Msg, Any, Any]) -> Generator[Msg, Any, Any]:
        """Add baseline, monitors and flyers to a plan."""
        devices = [device for device in self.baseline if isinstance(device, Readable)]
        rest = SupplementalData(monitors=self.monitors, flyers=self.flyers)
        return rest(baseline_wrapper(plan, devices) if devices else plan)


class Snapshot:
    """What a device said, as something a RunEngine can read without asking anybody."""

    parent = None

    def __init__(self, device: Any) -> None:
        self.device = device
        self.name = device.name
        self._reading: Mapping[str, Any] = {}
        self._settings: Mapping[str, Any] = {}
        self._data_keys: Mapping[str, Any] | None = None
        self._setting_keys: Mapping[str, Any] = {}

    async def take(self) -> None:
        """Measure; the first time also read what does not change during a run.

        Raises
        ------
        Exception
            What the device raises, or a TimeoutError. Cancelled, the device may go on with what it does.
        """
        device = self.device
        async with asyncio.timeout(TIMEOUT_S):
            if isinstance(device, Triggerable):
                await triggered(device)
            self._reading = await maybe_await(device.read())
            if self._data_keys is None:
                if hasattr(device, "read_configuration"):
                    self._settings = await maybe_await(device.read_configuration())
                    self._setting_keys = await maybe_await(device.describe_configuration())
                self._data_keys = await maybe_await(device.describe())

    @property
    def hints(self) -> Mapping[str, Any]:
        """What of it is worth showing."""
        return getattr(self.device, "hints", {})

    def read(self) -> Mapping[str, Any]:
        """Return the reading."""
        return self._reading

    def describe(self) -> Mapping[str, Any]:
        """Return the data keys."""
        return self._data_keys or {}

    def read_configuration(self) -> Mapping[str, Any]:
        """Return the settings."""
        return self._settings

    def describe_configuration(self) -> Mapping[str, Any]:
        """Return the data keys of the settings."""
        return self._setting_keys


def baseline_wrapper(plan: Generator[Msg, Any, Any], devices: Iterable[Any]) -> Generator[Msg, Any, Any]:
    """Read devices after each run is opened, and before it is closed in order, into the stream `baseline`."""
    chosen = list(devices)
    taken: dict[Any, list[Snapshot]] = {}

    def first(msg: Msg) -> Generator[Msg, Any, None]:
        snapshots = [Snapshot(device) for device in chosen]
        failed = yield from _take(snapshots)
        taken[msg.run] = [snapshot for snapshot in snapshots if snapshot not in failed]
        yield from _record(taken[msg.run], msg.run)

    def last(msg: Msg) -> Generator[Msg, Any, Any]:
        snapshots = taken.pop(msg.run)
        # An event has all columns of its stream or none.
        if not (yield from _take(snapshots)):
            yield from _record(snapshots, msg.run)
        return (yield msg)

    def mutate(msg: Msg) -> tuple[Generator[Msg, Any, Any] | None, Generator[Msg, Any, Any] | None]:
        if msg.command == "open_run":
            return None, first(msg)
        # A run that ends early is closed while devices still move: nothing may delay their stop.
        ends_well = msg.kwargs.get("exit_status") in (None, "success")
        if msg.command == "close_run" and ends_well and taken.get(msg.run):
            return last(msg), None
        return None, None

    return (yield from plan_mutator(plan, mutate))


def _take(snapshots: list[Snapshot]) -> Generator[Msg, Any, set[Snapshot]]:
    """Let all devices measure at the same time; return those that could not, with a warning for each."""
    outcomes: list[BaseException | None] = []

    async def take_all() -> None:
        outcomes[:] = await asyncio.gather(*(each.take() for each in snapshots), return_exceptions=True)

    yield Msg("wait_for", None, [take_all])
    failed = set()
    for snapshot, error in zip(snapshots, outcomes, strict=False):
        if error is not None:
            failed.add(snapshot)
            reason = f"it took more than {TIMEOUT_S:g} s" if type(error) is TimeoutError else str(error)
            logger.warning("%s is not in the baseline of this run: %s", snapshot.name, reason or type(error).__name__)
    return failed


def _record(snapshots: list[Snapshot], run: Any) -> Generator[Msg, Any, None]:
    if not snapshots:
        return
    yield Msg("create", None, name=STREAM, run=run)
    for snapshot in snapshots:
        yield Msg("read", snapshot, run=run)
    yield Msg("save", None, run=run)


async def triggered(device: Any) -> None:
    """Let a device or signal of either generation measure, and wait on the running loop until it has.

    Raises
    ------
    Exception
        What made the measurement fail. Cancelled, the measurement goes on.
    """
    await ended(device.trigger())
