"""A thread for one blocking driver: started when there is work, gone when there is none."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_IDLE_S = 0.1


class Worker:
    """Runs jobs one after the other on a thread of its own.

    A driver that hangs keeps this thread and the jobs behind it, and nobody else's. The thread is a daemon: a driver
    that never returns does not keep the interpreter from exiting.

    Parameters
    ----------
    name
        Name of the thread, as it stands in stack dumps.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job as soon as those before it are done; returns at once. The job deals with its own errors."""
        with self._lock:
            self._jobs.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if not self._jobs.empty():
                        continue
                    self._thread = None
                    return
            try:
                job()
            except Exception:
                logger.exception("a job on %s failed and had nobody to tell", self._name)
            del job
