"""Ctrl-C aborts the plan of a script, where at a prompt it pauses; what closes a session it does not cut short."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

from bluesky import RunEngine
from bluesky.utils import TransitionError

from profiles.notices import tell

PATIENCE_S = 10.0
"""How long an abort may take before another Ctrl-C takes its ordinary course."""

CLOSING = "The session is closing: what moves is stopped, what was measured is stored. Ctrl-C again leaves all that."


class AbortOnInterrupt:
    """For `RE.context_managers`: the first Ctrl-C during a plan aborts it and ends as KeyboardInterrupt.

    The plan's clean-up runs, everything that moves is stopped, the run is closed as aborted. Further Ctrl-C
    within 10 s change nothing; after that they take their ordinary course, in case an abort hangs.
    """

    def __init__(self, run_engine: RunEngine) -> None:
        self._run_engine = run_engine
        self._interrupted_at: float | None = None
        self._wake = threading.Event()
        self._over = False
        self._previous: signal.Handlers | None = None
        self._aborting: threading.Thread | None = None

    def __enter__(self) -> AbortOnInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._aborting = threading.Thread(target=self._abort_when_asked, name="abort on Ctrl-C", daemon=True)
            self._aborting.start()
            self._previous = signal.signal(signal.SIGINT, self._handle)  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._aborting is None:
            return
        signal.signal(signal.SIGINT, self._previous)
        self._over = True
        self._wake.set()
        self._aborting.join()
        if self._interrupted_at is not None:
            raise KeyboardInterrupt from error

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        # Nothing that takes a lock may happen here: the interrupted code may hold it.
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            self._wake.set()
        elif now - self._interrupted_at > PATIENCE_S:
            signal.signal(signal.SIGINT, self._previous)
            raise KeyboardInterrupt

    def _abort_when_asked(self) -> None:
        self._wake.wait()
        while not self._over:
            # Before the plan's first message and after its last the RunEngine has nothing to abort.
            with contextlib.suppress(TransitionError):
                self._run_engine.abort("interrupted by Ctrl-C")
                return
            time.sleep(0.01)


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Let what has to be finished be finished: the first Ctrl-C only says what is going on, the second one ends it.

    What closes a session has limits of its own, and what is cut short may leave things moving. On other threads than
    the main one, which Ctrl-C does not reach, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, frame)
        asked = True
        # The interrupted code may hold the lock of the stream that is printed to.
        threading.Thread(target=tell, args=(CLOSING,), name="tell of closing", daemon=True).start()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
