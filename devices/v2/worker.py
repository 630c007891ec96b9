"""A thread for one blocking driver: started when there is work, gone when there is none or its owner is."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable

from devices.v2.watchdog import WATCHDOG

logger = logging.getLogger(__name__)

IDLE_S = 0.5
"""How long a thread without work is kept: the points of a scan are closer together, and starting one costs 0.3 ms."""


class Worker:
    """Runs jobs one after the other on a thread of its own.

    A driver that hangs keeps this thread and the jobs behind it, and nobody else's. The thread is a daemon: a driver
    that never returns does not keep the interpreter from exiting.

    Parameters
    ----------
    name
        Name of the thread, as it stands in stack dumps.
    owner
        Whose work it does; the thread ends when the owner is dropped.
    """

    def __init__(self, name: str, owner: object) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # the owner may be collected by whoever holds it
        self._thread: threading.Thread | None = None
        weakref.finalize(owner, self.stop).atexit = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job as soon as those before it are done; returns at once. The job deals with its own errors."""
        with self._lock:
            self._jobs.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread after the jobs it was given; returns at once. A later job starts another one."""
        with self._lock:
            if self._thread is not None:
                self._jobs.put(None)

    def _run(self) -> None:
        WATCHDOG.enter()
        try:
            while not self._has_ended():
                pass
        finally:
            WATCHDOG.leave()

    def _has_ended(self) -> bool:
        """Do the next job, or tell that there is none any more."""
        try:
            job = self._jobs.get(timeout=IDLE_S)
        except queue.Empty:
            job = None
        if job is None:
            with self._lock:
                if not self._jobs.empty():
                    return False
                self._thread = None
                return True
        try:
            job()
        except Exception:
            logger.exception("a job on %s failed and had nobody to tell", self._name)
        return False
