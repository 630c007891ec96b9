"""The instruments of one generation: started, stopped and asked in parallel, each within its own time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from coexistence.runtime.errors import ConnectTimeout, HealthTimeout, StopTimeout
from coexistence.runtime.health import InstrumentHealth
from coexistence.runtime.instrument import AsyncInstrument, BlockingInstrument
from coexistence.runtime.lanes import Job, Lane, LoopLane
from coexistence.runtime.states import (
    GenerationState,
    GenerationStatus,
    InstrumentState,
    InstrumentStatus,
    Transition,
)

if TYPE_CHECKING:
    from coexistence.config import Generation
    from coexistence.runtime.limits import RuntimeLimits

logger = logging.getLogger("coexistence.runtime")


class ManagedEntry:
    """One instrument and where it is."""

    def __init__(self, instrument: BlockingInstrument | AsyncInstrument, generation: Generation) -> None:
        self.instrument: Any = instrument
        self.name = instrument.name
        self.generation = generation
        self.state = InstrumentState.CONFIGURED
        self.error: BaseException | None = None
        self.took_s = 0.0
        self.restarts = 0
        self.attempt = 0
        """Which start the instrument is in: what an earlier one brings in late is no longer wanted."""
        self.busy = threading.Lock()
        """Held while the instrument is restarted."""
        self.asking: Job | None = None
        self.went_wrong = False
        """Whether it failed to start or to stop: the next start makes a new one."""
        self.closed = False

    @property
    def status(self) -> InstrumentStatus:
        """The instrument at this moment."""
        return InstrumentStatus(self.name, self.generation, self.state, self.error, self.took_s, self.restarts)


Starts = list[tuple[ManagedEntry, Job, threading.Event]]
"""What is being started; the event is set when listeners have heard how it went."""
"""Instruments that are starting."""


class GenerationRuntime:
    """Runs the instruments of one generation.

    Parameters
    ----------
    name
        ``"v2"`` or ``"v4"``.
    instruments
        What is to be run.
    lane
        Where their calls run.
    limits
        How long they may take.
    notify
        Called with each :class:`Transition`, from the thread on which it happened.
    """

    def __init__(
        self,
        name: Generation,
        instruments: Iterable[Any],
        lane: Lane,
        limits: RuntimeLimits,
        notify: Callable[[Transition], None],
    ) -> None:
        self.name = name
        self.entries = [ManagedEntry(instrument, name) for instrument in instruments]
        self.lane = lane
        self._limits = limits
        self._notify = notify
        self._lock = threading.Lock()
        self._hung: list[Job] = []
        self._ending = False

    @property
    def status(self) -> GenerationStatus:
        """The generation at this moment."""
        running = tuple(each.name for each in self.entries if each.state is InstrumentState.RUNNING)
        failed = {each.name: str(each.error) for each in self.entries if each.state is InstrumentState.FAILED}
        state = GenerationState.ACTIVE if running else GenerationState.ERROR if failed else GenerationState.INACTIVE
        return GenerationStatus(state, running, failed)

    @property
    def left_behind(self) -> list[str]:
        """Names of the threads that are in a call that does not return."""
        with self._lock:
            self._hung = [job for job in self._hung if job.hangs and job.thread]
            return [job.thread for job in self._hung]

    # Starting

    def begin_start(self, entries: Iterable[ManagedEntry]) -> Starts:
        """Begin to start instruments and return at once; how each went is told by a transition.

        Nothing is started any more once :meth:`stop` has closed the instruments.
        """
        started = [self._begin_start(entry) for entry in entries]
        return [each for each in started if each is not None]

    def await_start(self, started: Starts, began: float) -> None:
        """Wait until each has started or failed, and that is told; who takes longer than it may counts as failed."""
        grace = self._limits.connect_grace_s
        for entry, job, told in started:
            attempt = entry.attempt
            deadline = began + entry.instrument.connect_timeout + grace
            if _done_by(job, deadline):
                told.wait(max(deadline - time.monotonic(), grace))
            else:
                self._give_up(job)
                self._end_start(entry, attempt, began, ConnectTimeout(entry.instrument.connect_timeout))

    def _begin_start(self, entry: ManagedEntry) -> tuple[ManagedEntry, Job, threading.Event] | None:
        with self._lock:
            if self._ending:
                return None
            entry.attempt += 1
            entry.restarts += entry.attempt > 1
            attempt, fresh = entry.attempt, entry.went_wrong
        began = time.monotonic()
        self._to(entry, InstrumentState.STARTING)
        job = self.lane.run(f"connect {entry.name}", lambda: entry.instrument.start(fresh))

        told = threading.Event()

        def note(future: Any) -> None:
            try:
                error = future.exception()
                came_late = not self._end_start(entry, attempt, began, error) and error is None
                if came_late and attempt == entry.attempt:  # else closing would end what a later start has made
                    logger.warning("%s came up after it was given up; it is closed again", entry.name)
                    self.lane.run(f"close {entry.name}", entry.instrument.close)
            except CancelledError:
                return
            finally:
                told.set()

        job.future.add_done_callback(note)
        return entry, job, told

    def _end_start(self, entry: ManagedEntry, attempt: int, began: float, error: BaseException | None) -> bool:
        with self._lock:
            # A stop or a later start may have come meanwhile.
            if attempt != entry.attempt or entry.state is not InstrumentState.STARTING:
                return False
            entry.took_s = time.monotonic() - began
            entry.went_wrong = error is not None
        if error is None:
            self._to(entry, InstrumentState.RUNNING)
        else:
            self._to(entry, InstrumentState.FAILED, error)
        return True

    # Stopping

    def stop(self, entries: Iterable[ManagedEntry], limit: float, *, close: bool) -> list[str]:
        """Stop instruments in parallel within ``limit`` seconds together.

        Those that are starting are given up. With ``close`` they also let go of everything and do not come back.
        Returns what did not stop in order, a sentence each.
        """
        deadline = time.monotonic() + limit
        stopping = []
        with self._lock:
            self._ending = self._ending or close
        for entry in entries:
            was = entry.state
            if was is InstrumentState.CONFIGURED or entry.closed:
                continue
            entry.closed = close
            self._to(entry, InstrumentState.STOPPING)
            stopping.append((entry, self.lane.run(f"stop {entry.name}", self._stopping(entry, was, close))))
        problems = []
        for entry, job in stopping:
            error: BaseException | None = None
            if not _done_by(job, deadline):
                self._give_up(job)
                error = StopTimeout(limit, job.thread)
            elif not job.future.cancelled():
                error = job.future.exception()
            if error is not None:
                entry.went_wrong = True
                problems.append(f"{entry.name} did not stop in order: {str(error) or type(error).__name__}")
                logger.warning("%s", problems[-1])
            self._to(entry, InstrumentState.STOPPED, error)
        return problems

    def _stopping(self, entry: ManagedEntry, was: InstrumentState, close: bool) -> Callable[[], Any]:
        instrument = entry.instrument
        runs = was in (InstrumentState.RUNNING, InstrumentState.STOPPING)
        if isinstance(self.lane, LoopLane):

            async def stop_on_loop() -> None:
                try:
                    if runs:
                        await instrument.stop()
                finally:
                    if close:
                        await instrument.close()

            return stop_on_loop

        def stop() -> None:
            try:
                if runs:
                    instrument.stop()
            finally:
                if close:
                    instrument.close()

        return stop

    # Health

    def begin_asking(self) -> list[tuple[ManagedEntry, float]]:
        """Ask every instrument that runs how it is; one that has not answered the last time is not asked again."""
        asked = []
        for entry in self.entries:
            if entry.state is InstrumentState.RUNNING and (entry.asking is None or not entry.asking.hangs):
                entry.asking = self.lane.run(f"health of {entry.name}", entry.instrument.health)
            asked.append((entry, time.monotonic()))
        return asked

    def answers(self, asked: list[tuple[ManagedEntry, float]]) -> list[InstrumentHealth]:
        """Return what they said, each within its time."""
        return [self._answer(entry, began) for entry, began in asked]

    def _answer(self, entry: ManagedEntry, began: float) -> InstrumentHealth:
        if entry.state is not InstrumentState.RUNNING or entry.asking is None:
            detail = str(entry.error) if entry.error is not None else entry.state.value
            return InstrumentHealth(
                entry.name, entry.generation, entry.state, False, detail, None, restarts=entry.restarts
            )
        job, healthy = entry.asking, False
        latency: float | None = None
        if not _done_by(job, began + self._limits.health_s):
            if not job.thread:
                job.future.cancel()
            detail = str(HealthTimeout(self._limits.health_s))
        else:
            latency = job.took_s
            error = None if job.future.cancelled() else job.future.exception()
            if job.future.cancelled():
                detail = "it was not asked to the end"
            elif error is not None:
                detail = str(error) or type(error).__name__
            else:
                healthy, detail = True, str(job.future.result())
        return InstrumentHealth(
            entry.name, entry.generation, entry.state, healthy, detail, latency, restarts=entry.restarts
        )

    # Transitions

    def _give_up(self, job: Job) -> None:
        job.future.cancel()
        with self._lock:
            self._hung.append(job)

    def _to(self, entry: ManagedEntry, state: InstrumentState, error: BaseException | None = None) -> None:
        with self._lock:
            before, entry.state, entry.error = entry.state, state, error
        if before is not state:
            self._notify(Transition(entry.name, before, state, error))


def _done_by(job: Job, deadline: float) -> bool:
    try:
        job.future.exception(max(0.0, deadline - time.monotonic()))
    except CancelledError:
        return True
    except TimeoutError:
        return job.future.done()
    return True
