"""Restarts instruments that have failed, with growing pauses and a limit."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coexistence.errors import CoexistenceError
from coexistence.runtime.states import InstrumentState, RuntimeState, Transition

if TYPE_CHECKING:
    from coexistence.runtime.manager import DualRuntimeManager

logger = logging.getLogger("coexistence.runtime")


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How often an instrument is restarted.

    Attributes
    ----------
    attempts
        Restarts in a row after which an instrument is given up, until somebody restarts it.
    first_pause_s
        Pause before the first restart; each further one is ``factor`` times as long.
    factor
        Growth of the pauses.
    longest_pause_s
        Pauses do not grow beyond this.
    check_interval_s
        Pause between two checks of health; an instrument that is unhealthy in two checks in a row is restarted too.
        0 looks at failed starts only and asks no instrument.
    """

    attempts: int = 5
    first_pause_s: float = 1.0
    factor: float = 2.0
    longest_pause_s: float = 60.0
    check_interval_s: float = 0.0

    def pause_s(self, attempt: int) -> float:
        """Return the pause before restart number ``attempt``, counted from 0."""
        return min(self.first_pause_s * self.factor**attempt, self.longest_pause_s)


class Supervisor:
    """Watches a runtime on a thread of its own; made by :meth:`DualRuntimeManager.supervise`."""

    def __init__(self, manager: DualRuntimeManager, policy: RestartPolicy) -> None:
        self._manager = manager
        self._policy = policy
        self._attempts: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._unhealthy: set[str] = set()
        self._given_up: set[str] = set()
        self._wake = threading.Event()
        self._over = False
        self._remove_listener = manager.add_listener(self._note)
        for name, status in manager.instruments.items():
            if status.state is InstrumentState.FAILED:
                self._plan(name)
        self._thread = threading.Thread(target=self._watch, name="runtime supervisor", daemon=True)
        self._thread.start()

    @property
    def given_up(self) -> frozenset[str]:
        """The instruments whose restarts are used up."""
        return frozenset(self._given_up)

    def stop(self) -> None:
        """End the supervision; a restart under way is not waited for."""
        self._over = True
        self._remove_listener()
        self._wake.set()

    def _note(self, transition: Transition) -> None:
        name = transition.subject
        if transition.after is InstrumentState.FAILED:
            self._plan(name)
        elif transition.after is InstrumentState.RUNNING:
            self._due.pop(name, None)
            if not self._policy.check_interval_s:  # else it has to be found healthy first
                self._note_success(name)

    def _note_success(self, name: str) -> None:
        self._attempts.pop(name, None)
        self._given_up.discard(name)

    def _plan(self, name: str) -> None:
        attempt = self._attempts.get(name, 0)
        if attempt >= self._policy.attempts:
            if name not in self._given_up:
                self._given_up.add(name)
                logger.warning("%s was restarted %d times in vain and is given up", name, attempt)
            return
        self._due[name] = time.monotonic() + self._policy.pause_s(attempt)
        self._wake.set()

    def _watch(self) -> None:
        interval = self._policy.check_interval_s
        next_check = time.monotonic() + interval
        while not self._over:
            times = [*self._due.values(), *([next_check] if interval else [])]
            self._wake.wait(max(0.0, min(times) - time.monotonic()) if times else None)
            self._wake.clear()
            if self._over or self._manager.state in (RuntimeState.SHUTTING_DOWN, RuntimeState.STOPPED):
                return
            if interval and time.monotonic() >= next_check:
                self._check()
                next_check = time.monotonic() + interval
            for name in [name for name, due in self._due.items() if due <= time.monotonic()]:
                self._restart(name)

    def _check(self) -> None:
        health = self._manager.check_health()
        unhealthy = {
            name
            for name, each in health.instruments.items()
            if each.state is InstrumentState.RUNNING and not each.healthy
        }
        for name in unhealthy & self._unhealthy:
            if name not in self._due and name not in self._given_up:
                self._plan(name)
        for name in health.instruments.keys() - unhealthy:
            if health.instruments[name].healthy:
                self._note_success(name)
        self._unhealthy = unhealthy

    def _restart(self, name: str) -> None:
        self._due.pop(name, None)
        self._attempts[name] = self._attempts.get(name, 0) + 1
        logger.info("%s is restarted, attempt %d of %d", name, self._attempts[name], self._policy.attempts)
        try:
            self._manager.restart(name)
        except CoexistenceError as error:  # it is being shut down
            logger.debug("%s is not restarted: %s", name, error)
