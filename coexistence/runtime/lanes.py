"""Where an instrument's calls run: blocking ones each on a daemon thread, coroutines on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from coexistence.runtime.loops import end_loop

_LOOP_END_S = 2.0


class Job:
    """One call under way; ``thread`` names the thread it keeps, empty for coroutines."""

    def __init__(self, future: Future[Any], thread: str = "") -> None:
        self.future = future
        self.thread = thread
        self.took_s: float | None = None
        """How long it took; None while it is under way."""
        self._began = time.monotonic()

    def note_end(self) -> None:
        """Take note of how long it took; before the future has its result, so that who waits for that finds both."""
        self.took_s = time.monotonic() - self._began

    @property
    def hangs(self) -> bool:
        """Whether it is still under way."""
        return not self.future.done()


class Lane(ABC):
    """Runs the calls of one generation."""

    @abstractmethod
    def run(self, name: str, function: Callable[[], Any]) -> Job:
        """Begin a call and return at once; ``name`` is that of its thread or task."""

    @abstractmethod
    def close(self, timeout: float) -> None:
        """End what the lane made itself; each step of that gets the timeout (s)."""


class ThreadLane(Lane):
    """A daemon thread for each call: one that hangs keeps its own thread, not the interpreter from exiting."""

    def run(self, name: str, function: Callable[[], Any]) -> Job:
        """As :meth:`Lane.run`."""
        job = Job(Future(), name)
        job.future.set_running_or_notify_cancel()

        def call() -> None:
            try:
                result = function()
            except BaseException as error:
                job.note_end()
                job.future.set_exception(error)
            else:
                job.note_end()
                job.future.set_result(result)

        threading.Thread(target=call, name=name, daemon=True).start()
        return job

    def close(self, timeout: float) -> None:
        """Nothing is to be ended: threads end with their calls."""


class LoopLane(Lane):
    """Coroutines on an event loop: a given one that runs already, or one of its own on a daemon thread.

    Parameters
    ----------
    loop
        A running loop on another thread; None makes one when the first call comes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._given = loop
        self._own: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop the coroutines run on."""
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._own.run_forever, name="v4 event loop", daemon=True)
            self._thread.start()
        return self._own

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is the one that runs the loop."""
        loop = self._given or self._own
        with contextlib.suppress(RuntimeError):
            return loop is not None and asyncio.get_running_loop() is loop
        return False

    def run(self, name: str, function: Callable[[], Any]) -> Job:
        """As :meth:`Lane.run`; cancelling the job's future cancels the coroutine."""
        job = Job(Future())

        async def call() -> Any:
            task = asyncio.current_task()
            if task is not None:
                task.set_name(name)
            try:
                return await function()
            finally:
                job.note_end()

        job.future = asyncio.run_coroutine_threadsafe(call(), self.loop)
        return job

    def close(self, timeout: float) -> None:
        """End a loop of our own and its thread; a loop that was given belongs to somebody else."""
        loop, thread = self._own, self._thread
        if loop is None or thread is None:
            return
        if end_loop(loop, thread, min(timeout, _LOOP_END_S)):
            self._own = self._thread = None
