"""Both generations of instruments as one runtime: started together, watched, restarted one by one, stopped in order."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from coexistence.runtime.errors import UnknownName, WrongState
from coexistence.runtime.generation import GenerationRuntime, ManagedEntry, Starts
from coexistence.runtime.health import Health, ProcessMeter, warnings_of
from coexistence.runtime.instrument import AsyncInstrument, BlockingInstrument
from coexistence.runtime.lanes import LoopLane, ThreadLane
from coexistence.runtime.limits import RuntimeLimits
from coexistence.runtime.states import (
    GenerationStatus,
    InstrumentStatus,
    RuntimeState,
    ShutdownReport,
    Transition,
)
from coexistence.runtime.supervisor import RestartPolicy, Supervisor

if TYPE_CHECKING:
    import asyncio

    from coexistence.config import DualConfig, Generation
    from coexistence.resources import WireUse

logger = logging.getLogger("coexistence.runtime")


class Resources(Protocol):
    """What the instruments share and what is closed when they have stopped."""

    def held(self) -> list[WireUse]:
        """Return who holds and waits for each wire."""

    def close(self) -> None:
        """Close every wire."""


class DualRuntimeManager:
    """Runs the instruments of both generations; safe to use from any thread.

    ``UNINITIALIZED → STARTING → RUNNING → SHUTTING_DOWN → STOPPED``, and whatever hangs or fails on the way, it ends
    in ``STOPPED`` with every wire closed. Each generation is inactive, active or in error by itself. Used with
    ``with``, the block begins when everything has started or failed, and its end shuts down.

    Parameters
    ----------
    config
        Says which generations are enabled and what limits they have; None enables both.
    v2
        Instruments whose calls block; each call gets a daemon thread of its own.
    v4
        Instruments whose calls are coroutines.
    resources
        What is closed at the end: :class:`coexistence.SharedResources`.
    loop
        Running event loop for the v4 instruments; without it they get one of their own.
    end_plan
        Called with a time limit (s) at the beginning of a shutdown, to end what is measuring.
    limits
        Time limits; by default those of the configuration.
    """

    def __init__(
        self,
        config: DualConfig | None = None,
        *,
        v2: Iterable[BlockingInstrument] = (),
        v4: Iterable[AsyncInstrument] = (),
        resources: Resources | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        end_plan: Callable[[float], object] | None = None,
        limits: RuntimeLimits | None = None,
    ) -> None:
        self.limits = limits or RuntimeLimits.of(config)
        self.resources = resources
        self._end_plan = end_plan
        self._loop_lane = LoopLane(loop)
        enabled = {"v2": config is None or config.v2.enabled, "v4": config is None or config.v4.enabled}
        self._generations: dict[Generation, GenerationRuntime] = {
            "v2": GenerationRuntime("v2", v2 if enabled["v2"] else (), ThreadLane(), self.limits, self._tell),
            "v4": GenerationRuntime("v4", v4 if enabled["v4"] else (), self._loop_lane, self.limits, self._tell),
        }
        self._entries = {entry.name: entry for each in self._generations.values() for entry in each.entries}
        self._lock = threading.Lock()
        self._state = RuntimeState.UNINITIALIZED
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._listeners: list[Callable[[Transition], object]] = []
        self._shutdown_listeners: list[Callable[[], object]] = []
        self._hung_steps: list[threading.Thread] = []
        self._supervisor: Supervisor | None = None
        self._meter = ProcessMeter()
        self.shutdown_report: ShutdownReport | None = None
        """How the shutdown went, once it is over."""

    # What is

    @property
    def state(self) -> RuntimeState:
        """Where the runtime is."""
        return self._state

    @property
    def status(self) -> dict[Generation, GenerationStatus]:
        """How each generation is, and which of its instruments run or failed, and why."""
        return {name: each.status for name, each in self._generations.items()}

    @property
    def instruments(self) -> dict[str, InstrumentStatus]:
        """Where each instrument is, by name."""
        return {name: entry.status for name, entry in self._entries.items()}

    @property
    def left_behind(self) -> tuple[str, ...]:
        """Names of daemon threads that are in a call that does not return; they end with the process."""
        self._hung_steps = [thread for thread in self._hung_steps if thread.is_alive()]
        steps = [thread.name for thread in self._hung_steps]
        return (*(name for each in self._generations.values() for name in each.left_behind), *steps)

    def add_listener(self, listener: Callable[[Transition], object]) -> Callable[[], None]:
        """Have ``listener(transition)`` called, on the thread where it happens, at every change of state.

        Returns
        -------
        callable
            Removes the listener.
        """
        self._listeners.append(listener)
        return lambda: _discard(self._listeners, listener)

    def add_shutdown_listener(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have ``listener()`` called when a shutdown begins, before anything is stopped.

        All listeners together get ``limits.announce_s``. Returns what removes the listener.
        """
        self._shutdown_listeners.append(listener)
        return lambda: _discard(self._shutdown_listeners, listener)

    # Starting

    def start(self, wait: float | None = None) -> None:
        """Start all instruments of the enabled generations in parallel.

        An instrument that fails or takes longer than its ``connect_timeout`` does not stop the others; it is in
        :attr:`status` with the reason.

        Parameters
        ----------
        wait
            Seconds after which to return while slow instruments are still starting, told by listeners when they are
            there; the runtime is ``STARTING`` until the last one has started or failed. None waits for all.

        Raises
        ------
        WrongState
            It was started before.
        """
        self._advance(RuntimeState.STARTING, since=RuntimeState.UNINITIALIZED, what="start")
        began = time.monotonic()
        started = [(each, each.begin_start(each.entries)) for each in self._generations.values() if each.entries]
        if wait is None:
            self._finish_start(started, began)
        else:
            finishing = threading.Thread(
                target=self._finish_start, args=(started, began), name="runtime start", daemon=True
            )
            finishing.start()
            self._started.wait(wait)

    def wait_started(self, timeout: float | None = None) -> bool:
        """Wait until every instrument has started or failed; return whether that is so."""
        return self._started.wait(timeout)

    def _finish_start(self, started: list[tuple[GenerationRuntime, Starts]], began: float) -> None:
        try:
            for generation, jobs in started:
                generation.await_start(jobs, began)
            with contextlib.suppress(WrongState):  # it is being shut down meanwhile
                self._advance(RuntimeState.RUNNING, since=RuntimeState.STARTING, what="run")
        finally:
            self._started.set()

    # Restarting

    def restart(self, what: str) -> tuple[InstrumentStatus, ...]:
        """Stop and start a generation or one instrument again, while everything else goes on.

        An instrument that hangs is left behind with its thread and a new one is made in its place.

        Parameters
        ----------
        what
            ``"v2"``, ``"v4"`` or the name of an instrument.

        Returns
        -------
        tuple of InstrumentStatus
            How each of them is now; one that failed to start carries the reason.

        Raises
        ------
        UnknownName
            There is no such instrument.
        WrongState
            The runtime does not run.
        """
        entries = self._chosen(what)
        if self.state not in (RuntimeState.STARTING, RuntimeState.RUNNING):
            raise WrongState(f"restart {what}", self._state, "Open a new one.")
        with contextlib.ExitStack() as stack:
            for entry in entries:
                stack.enter_context(entry.busy)
            by_generation = [(each, [e for e in entries if e in each.entries]) for each in self._generations.values()]
            for generation, chosen in by_generation:
                generation.stop(chosen, self.limits.stop_s(generation.name), close=False)
            began = time.monotonic()
            started = [(generation, generation.begin_start(chosen)) for generation, chosen in by_generation]
            for generation, jobs in started:
                generation.await_start(jobs, began)
        return tuple(entry.status for entry in entries)

    def supervise(self, policy: RestartPolicy | None = None) -> Supervisor:
        """Restart instruments that fail from now on, with growing pauses and a limit; ends with the runtime.

        Returns
        -------
        Supervisor
            Its ``stop()`` ends the supervision.
        """
        if self._supervisor is not None:
            self._supervisor.stop()
        self._supervisor = Supervisor(self, policy or RestartPolicy())
        return self._supervisor

    def _chosen(self, what: str) -> list[ManagedEntry]:
        for name, generation in self._generations.items():
            if what == name:
                return list(generation.entries)
        if what not in self._entries:
            raise UnknownName(what, [*self._entries, "v2", "v4"])
        return [self._entries[what]]

    # Health

    def check_health(self) -> Health:
        """Ask every instrument how it is, in parallel, and measure what the process uses.

        Takes ``limits.health_s`` at the most, however many hang. Not for an event loop's thread.
        """
        asked = [(each, each.begin_asking()) for each in self._generations.values()]
        instruments = {answer.name: answer for each, asking in asked for answer in each.answers(asking)}
        process = self._meter.measure()
        left_behind = self.left_behind
        wires = tuple(self.resources.held()) if self.resources is not None else ()
        warnings = warnings_of(process, self.limits)
        warnings += [f"{wire.wire} is lost; it is looked for twice a second" for wire in wires if not wire.connected]
        warnings += [f"the thread {name!r} is in a call that does not return" for name in left_behind]
        for warning in warnings:
            logger.info("health: %s", warning)
        return Health(self._state, self.status, instruments, process, wires, tuple(warnings), left_behind)

    # Shutting down

    def shutdown(self, timeout: float | None = None) -> ShutdownReport | None:
        """End everything in order: announce, end the plan, stop v4, then v2, close the wires.

        Each step has its own limit; what takes longer is left behind. From any thread and in any state; when another
        thread is at it already, waits for that. On the event loop of the v4 instruments it returns at once and the
        shutdown goes on by itself.

        Parameters
        ----------
        timeout
            Seconds for all steps together; None leaves it to the limits of the steps.

        Returns
        -------
        ShutdownReport or None
            How it went; None when it is not over yet.
        """
        if self._loop_lane.is_current:
            threading.Thread(target=self.shutdown, args=(timeout,), name="runtime shutdown", daemon=True).start()
            return None
        with self._lock:
            before = self._state
            if before not in (RuntimeState.SHUTTING_DOWN, RuntimeState.STOPPED):
                self._state = RuntimeState.SHUTTING_DOWN
        if before in (RuntimeState.SHUTTING_DOWN, RuntimeState.STOPPED):
            self._stopped.wait(timeout)
            return self.shutdown_report
        self._tell(Transition("runtime", before, RuntimeState.SHUTTING_DOWN))
        self._shut_down(timeout)
        return self.shutdown_report

    def wait_stopped(self, timeout: float | None = None) -> bool:
        """Wait until the runtime has stopped; return whether it has. For services whose work is done elsewhere."""
        return self._stopped.wait(timeout)

    def __enter__(self) -> DualRuntimeManager:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _shut_down(self, timeout: float | None) -> None:
        began = time.monotonic()
        deadline = None if timeout is None else began + timeout
        steps: dict[str, float] = {}
        problems: list[str] = []

        def limit(own: float) -> float:
            return own if deadline is None else min(own, max(0.0, deadline - time.monotonic()))

        with contextlib.ExitStack() as stack:
            stack.callback(self._end, began, steps, problems)
            stack.callback(lambda: self._close_wires(limit(self.limits.wires_s), steps, problems))
            for name in ("v2", "v4"):  # the last one is done first
                stack.callback(self._stop_generation, self._generations[name], limit, steps, problems)
            if self._supervisor is not None:
                self._supervisor.stop()
            with _timed(steps, "announce"):
                self._bounded("announce shutdown", self._announce, limit(self.limits.announce_s), problems)
            if self._end_plan is not None:
                end_plan, plan_s = self._end_plan, limit(self.limits.plan_s)
                with _timed(steps, "plan"):
                    self._bounded("end plan", lambda: end_plan(plan_s), plan_s, problems)

    def _announce(self) -> None:
        for listener in tuple(self._shutdown_listeners):
            try:
                listener()
            except Exception:
                logger.exception("A shutdown listener failed; the others are told all the same")

    def _stop_generation(
        self,
        generation: GenerationRuntime,
        limit: Callable[[float], float],
        steps: dict[str, float],
        problems: list[str],
    ) -> None:
        with _timed(steps, generation.name):
            problems += generation.stop(generation.entries, limit(self.limits.stop_s(generation.name)), close=True)

    def _close_wires(self, limit: float, steps: dict[str, float], problems: list[str]) -> None:
        with _timed(steps, "wires"):
            if self.resources is not None:
                self._bounded("close wires", self.resources.close, limit, problems)
            self._loop_lane.close(max(limit, 0.1))

    def _end(self, began: float, steps: dict[str, float], problems: list[str]) -> None:
        self._started.set()
        self.shutdown_report = ShutdownReport(time.monotonic() - began, steps, tuple(problems), self.left_behind)
        for name in self.shutdown_report.left_behind:
            logger.warning("The thread %r is in a call that does not return; it ends with the process", name)
        with self._lock:
            self._state = RuntimeState.STOPPED
        self._tell(Transition("runtime", RuntimeState.SHUTTING_DOWN, RuntimeState.STOPPED))
        self._stopped.set()

    def _bounded(self, name: str, function: Callable[[], object], limit: float, problems: list[str]) -> None:
        """Call a function on a daemon thread and wait no longer than the limit for it."""

        def call() -> None:
            try:
                function()
            except Exception as error:
                logger.exception("A step of the shutdown failed; the next ones follow")
                problems.append(f"{name}: {str(error) or type(error).__name__}")

        thread = threading.Thread(target=call, name=name, daemon=True)
        thread.start()
        thread.join(limit)
        if thread.is_alive():
            self._hung_steps.append(thread)
            problems.append(f"{name}: not done within {limit:.3g} s")
            logger.warning("%s", problems[-1])

    # Transitions

    def _advance(self, state: RuntimeState, *, since: RuntimeState, what: str) -> None:
        with self._lock:
            before = self._state
            if before is not since:
                raise WrongState(what, before, "A runtime is started once: make a new one.")
            self._state = state
        self._tell(Transition("runtime", before, state))

    def _tell(self, transition: Transition) -> None:
        logger.info(
            "%s: %s -> %s%s",
            transition.subject,
            transition.before.value,
            transition.after.value,
            f" ({transition.error})" if transition.error is not None else "",
        )
        for listener in tuple(self._listeners):
            try:
                listener(transition)
            except Exception:
                logger.exception("A listener failed at %s", transition)


@contextlib.contextmanager
def _timed(steps: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        steps[name] = time.monotonic() - began


def _discard(listeners: list[Callable[..., object]], listener: Callable[..., object]) -> None:
    with contextlib.suppress(ValueError):
        listeners.remove(listener)
