"""`shadowed`: while a plan runs, the other generation of its instruments measures beside it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
from bluesky.preprocessors import set_run_key_wrapper
from bluesky.protocols import Status
from bluesky.utils import Msg, ensure_generator

from plans.shadow.pair_reader import PairReader, Sandwich, ShadowPair, done, in_the_background

logger = logging.getLogger("plans.shadow")

SHADOW_STREAM = "shadow"
DEFAULT_BUDGET = 0.05
PAUSE_BETWEEN_ROUNDS_S = 0.5
"""Within one motion or waiting time, a round is begun at most this often."""

ROOM_FOR_ROUNDS = 1.5
"""Waiting times are long enough for a row when they are so many times as long as one."""

SMOOTHING = 0.3


T = TypeVar("T")
Messages = Generator[Msg, Any, T]


def shadowed(
    plan: Messages[T],
    pairs: Iterable[ShadowPair | tuple[Any, Any]],
    *,
    budget: float = DEFAULT_BUDGET,
) -> Messages[T]:
    """Run a plan and let the twins of the devices it reads measure beside it, in the stream `shadow` of its runs.

    The plan never uses what the twins say, and never fails because of them. Each row of `shadow` has, for every pair,
    what was read in turn: `<column>_original_before`, `<column>` of the twin, `<column>_original_after` and
    `<column>_again` (every other row begins with the twin), each with its own time, so that a truth that changes
    meanwhile is no difference. Rows are measured while the plan waits for motions or sleeps, which costs nothing, and
    after its events. What they make the plan longer is at most `budget` of the time it has run. A value that could not
    be read is NaN, or empty text; a pair that fails three times in a row is left alone until the end.

    The start document gets `shadow`: the original's name for each twin. A plan that is shadowed already stays as it is,
    so that a script may choose other pairs than its session. Pausing, resuming and aborting work as
    without. Only numbers, texts and switches are compared, arrays are not.

    Parameters
    ----------
    plan
        Any plan, with any number of runs.
    pairs
        Original and twin; pairs of which the original is not read by the plan stay out.
    budget
        Share of the run's time, 0 to 1. With 0 only waiting time is used.

    Raises
    ------
    CannotShadow
        Before the plan begins, for a pair that cannot be compared.
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"the budget is a share of the run's time between 0 and 1, not {budget}")
    known = [pair if isinstance(pair, ShadowPair) else ShadowPair(*pair) for pair in pairs]
    return _Shadowing(known, budget).around(ensure_generator(plan)) if known else plan


class _Shadowing:
    """The plan's messages with those of the shadow between them."""

    def __init__(self, pairs: Sequence[ShadowPair], budget: float) -> None:
        self._pairs = pairs
        self._twins = {pair.twin.name: pair.original.name for pair in pairs}
        self._budget = budget
        self._runs: dict[Any, _Run] = {}
        self._waiting_for: dict[Any, list[Any]] = {}
        self._bundling: Any = None

    def around(self, plan: Messages[T]) -> Messages[T]:
        response: Any = None
        error: BaseException | None = None
        while True:
            try:
                message = plan.throw(error) if error is not None else plan.send(response)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            error = response = None
            try:
                response = yield from self._passed_on(message)
            except GeneratorExit:
                plan.close()
                raise
            except BaseException as raised:
                error = raised

    def _passed_on(self, message: Msg) -> Messages[Any]:
        command = message.command
        if command == "open_run" and "shadow" not in message.kwargs:
            message = message._replace(kwargs={**message.kwargs, "shadow": self._twins})
        elif command == "wait" and (run := self._run_to_use(message)):
            group = message.kwargs.get("group", message.args[0] if message.args else None)
            yield from self._use_waiting_time(run, _Waiting(self._waiting_for.pop(group, [])))
        elif command == "sleep" and (run := self._run_to_use(message)):
            (duration,) = message.args
            began = time.monotonic()
            yield from self._use_waiting_time(run, _Waiting(duration_s=duration))
            message = message._replace(args=(max(0.0, duration - (time.monotonic() - began)),))
        response = yield message
        self._take_note(message, response)
        if command == "save" and (run := self._run_to_use(message)) and run.has_time(self._budget):
            began = time.monotonic()
            yield from self._round(run)
            run.cost(time.monotonic() - began)
        return response

    def _take_note(self, message: Msg, response: Any) -> None:
        command = message.command
        if command == "open_run":
            # A run that is shadowed already, by what the plan itself says, is left to that.
            if message.kwargs.get("shadow") is self._twins:
                self._runs[message.run] = _Run()
        elif command == "close_run":
            self._runs.pop(message.run, None)
        elif command == "set" and response is not None:
            self._waiting_for.setdefault(message.kwargs.get("group"), []).append(response)
        elif command == "create":
            self._bundling = message
        elif command in ("save", "drop"):
            self._bundling = None
        elif command == "read" and self._bundling is not None and message.run in self._runs:
            stream = self._bundling.kwargs.get("name", self._bundling.args[0] if self._bundling.args else "primary")
            if stream != "baseline":
                self._runs[message.run].read.add(message.obj)

    def _run_to_use(self, message: Msg) -> _Run | None:
        """Return the run a row can be measured for now, None when there is none or an event is being put together."""
        if self._bundling is not None and message.command != "save":
            return None
        run = self._runs.get(message.run) if message.run in self._runs else self._only_run()
        if run is None:
            return None
        if run.readers is None and run.read:
            run.readers = [PairReader(pair) for pair in self._pairs if pair.original in run.read]
        return run if run.readers and not all(reader.given_up for reader in run.readers) else None

    def _only_run(self) -> _Run | None:
        """Return the run that is open; messages such as `wait` belong to none."""
        return next(iter(self._runs.values())) if len(self._runs) == 1 else None

    def _use_waiting_time(self, run: _Run, waiting: _Waiting) -> Messages[None]:
        """Measure rows while the plan has to wait anyway; only what goes on after that is a cost."""
        began = time.monotonic()
        while waiting.end is None and run.has_spare_time(self._budget, waiting.left_s):
            pause_until = time.monotonic() + PAUSE_BETWEEN_ROUNDS_S
            yield from self._round(run)
            if waiting.end is None:
                yield from bps.wait_for([partial(waiting.until, pause_until)])
        if waiting.end is not None:
            run.cost(time.monotonic() - waiting.end)
            run.waited(waiting.end - began)

    def _round(self, run: _Run) -> Messages[None]:
        """Measure one row for all pairs of a run."""
        assert run.readers is not None
        key = next(key for key, value in self._runs.items() if value is run)
        began = time.monotonic()
        row = self._measured_row(run)
        yield from row if key is None else set_run_key_wrapper(row, key)
        run.round_took(time.monotonic() - began)

    def _measured_row(self, run: _Run) -> Messages[None]:
        assert run.readers is not None
        for reader in run.readers:
            reader.forget()
            if not reader.given_up:
                yield from self._measured_pair(reader)
        # The columns of a stream are fixed by its first row: that waits until each pair has worked or given up.
        if not run.has_rows and all(reader.described or reader.given_up for reader in run.readers):
            run.readers = [reader for reader in run.readers if reader.described]
            run.has_rows = bool(run.readers)
        if run.has_rows and any(reader.has_values for reader in run.readers):
            yield from bps.create(SHADOW_STREAM)
            for reader in run.readers:
                yield from bps.read(reader)
            yield from bps.save()

    def _measured_pair(self, reader: PairReader) -> Messages[None]:
        original, twin = reader.pair.original, reader.pair.twin
        sandwich = Sandwich(original, twin, described=reader.described, twin_first=reader.twin_first)
        with in_the_background(original, twin):
            # One message for all of it: a status that fails would otherwise be thrown into the plan.
            yield from bps.wait_for([sandwich.measure])
        if not reader.described:
            if sandwich.error is not None:
                reader.failed(sandwich.error)
                return
            reader.take_descriptions(sandwich.keys[0], sandwich.keys[1])
        reader.take(sandwich.readings, sandwich.error)


class _Waiting:
    """A time in which the plan waits: for statuses, or for a time to pass."""

    def __init__(self, statuses: Sequence[Status] = (), duration_s: float = 0.0) -> None:
        self._statuses = statuses
        self._missing = len(statuses)
        self._end = time.monotonic() + duration_s
        for status in statuses:
            status.add_callback(self._note)

    def _note(self, _: Status) -> None:
        self._missing -= 1
        self._end = time.monotonic()

    @property
    def end(self) -> float | None:
        """When it ended, as a monotonic time; None while it goes on."""
        return None if self._missing or time.monotonic() < self._end else self._end

    @property
    def left_s(self) -> float | None:
        """How long it goes on, in s; None while that depends on statuses."""
        return None if self._statuses else max(0.0, self._end - time.monotonic())

    async def until(self, deadline: float) -> None:
        """Wait for the end or the deadline, whatever comes first."""
        last = deadline if self._missing else min(deadline, self._end)
        motions = [asyncio.ensure_future(done(status)) for status in self._statuses]
        pause = asyncio.ensure_future(asyncio.sleep(max(0.0, last - time.monotonic())))
        try:
            moving = asyncio.gather(*motions, return_exceptions=True) if motions else pause
            await asyncio.wait({moving, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*motions, pause):
                task.cancel()


@dataclass
class _Run:
    """What is known of a run that is open: what it reads, and what its shadow has cost so far."""

    began: float = field(default_factory=time.monotonic)
    read: set[Any] = field(default_factory=set)
    readers: list[PairReader] | None = None
    has_rows: bool = False
    _cost: float = 0.0
    _round: float = 0.05
    _wait: float | None = None

    def has_time(self, budget: float) -> bool:
        """Whether a row that the plan does not wait for anyway keeps the cost within the budget."""
        return self._cost + self._round <= budget * self.elapsed

    def has_spare_time(self, budget: float, left_s: float | None) -> bool:
        """Whether a row may be begun while the plan waits: what it would outlast that is a cost.

        How long a motion goes on is not known, only how long those before it took.
        """
        if left_s is None and self._wait is None:
            return True
        length = left_s if left_s is not None else self._wait or 0.0
        if length >= ROOM_FOR_ROUNDS * self._round:
            return True
        expected = length if left_s is not None else length / 2
        return self._cost + max(0.0, self._round - expected) <= budget * self.elapsed

    @property
    def elapsed(self) -> float:
        """How long the run has been going on, in s."""
        return time.monotonic() - self.began

    def waited(self, seconds: float) -> None:
        """Take note of how long the plan would have waited anyway."""
        self._wait = seconds if self._wait is None else self._wait + SMOOTHING * (seconds - self._wait)

    def cost(self, seconds: float) -> None:
        """Take note of what the plan took longer."""
        self._cost += seconds

    def round_took(self, seconds: float) -> None:
        """Take note of what one row takes."""
        self._round += SMOOTHING * (seconds - self._round)
