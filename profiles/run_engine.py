"""The RunEngine of a session: its loop, its metadata, its end, and the rule that an event is recorded once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

from bluesky import RunEngine
from bluesky.run_engine import set_bluesky_event_loop
from bluesky.utils import FailedStatus, Msg

from coexistence.runtime.loops import end_loop
from profiles.interruption import AbortOnInterrupt
from profiles.metadata import SharedMetadata

logger = logging.getLogger("profiles.run_engine")

LOOP_TIMEOUT_S = 2.0
_LOOK_S = 0.01


def make_run_engine(
    metadata: SharedMetadata,
    normalizer: Callable[[Mapping[str, Any]], dict[str, Any]],
    *,
    interrupt: Literal["abort", "pause"],
    call_returns_result: bool,
    with_ophyd: bool,
) -> RunEngine:
    """Make a RunEngine on a loop of its own, which exists before any v4 device that is to belong to it.

    Parameters
    ----------
    metadata
        `RE.md`, and where scan numbers come from.
    normalizer
        Completes the metadata of each run.
    interrupt
        What Ctrl-C does to a plan; see :class:`profiles.session.Session`.
    call_returns_result
        Whether `RE(...)` returns a result object.
    with_ophyd
        Whether ophyd may be imported.
    """
    loop = asyncio.new_event_loop()
    loop.set_default_executor(DaemonExecutor())
    with contextlib.nullcontext() if with_ophyd else _without_ophyd():
        run_engine = RunEngine(
            metadata,
            loop=loop,
            scan_id_source=metadata.next_scan_id,
            md_normalizer=normalizer,
            call_returns_result=call_returns_result,
            context_managers=[AbortOnInterrupt] if interrupt == "abort" else None,
        )
    record_each_event_once(run_engine)
    tell_why_devices_fail(run_engine)
    return run_engine


def record_each_event_once(run_engine: RunEngine) -> None:
    """Let no resumed plan repeat an event that is recorded.

    A paused or suspended plan is taken up at its last checkpoint. An event that was saved since then would be emitted
    again, with the same `seq_num`; so each saved event is a checkpoint too, unless another run has an open one.
    """
    save = run_engine._command_registry["save"]

    async def save_once(msg: Msg) -> None:
        await save(msg)
        if not any(bundler.bundling for bundler in run_engine._run_bundlers.values()):
            run_engine._reset_checkpoint_state()

    run_engine.register_command("save", save_once)


class ToldFailedStatus(FailedStatus):
    """What a plan gets when a device fails; its text, which becomes the reason in the run's stop document, says why.

    Bluesky's own text is that of the status: it names the device at the best.
    """

    def __str__(self) -> str:
        why = str(self.__cause__) if self.__cause__ is not None else ""
        name = getattr(getattr(self.args[0] if self.args else None, "device", None), "name", "")
        if not why:
            return super().__str__()
        return f"{name}: {why}" if name and name not in why else why


def tell_why_devices_fail(run_engine: RunEngine) -> None:
    """Let the reason of a failed run be what the device had to say, not that a status has failed."""
    completed = run_engine._status_object_completed

    def completed_and_told(status: Any, *args: Any) -> None:
        completed(status, *args)
        error = run_engine._exception
        if type(error) is FailedStatus:
            error.__class__ = ToldFailedStatus

    run_engine._status_object_completed = completed_and_told  # type: ignore[method-assign, assignment]


def end_plan(run_engine: RunEngine, timeout: float) -> None:
    """Abort a plan that runs or is paused; give up its clean-up after half of the timeout (s)."""
    patience = timeout * 0.45
    for end in (lambda: run_engine.abort("the session was closed"), run_engine.halt):
        if run_engine.state in ("idle", "panicked"):
            return
        # abort() of a paused plan runs its clean-up on the calling thread, with the handlers for Ctrl-C, which
        # only the main thread may install.
        run_engine.context_managers = []
        ending = threading.Thread(target=_quietly, args=(end,), name="end plan", daemon=True)
        ending.start()
        deadline = time.monotonic() + patience
        while run_engine.state != "idle" and time.monotonic() < deadline:
            time.sleep(_LOOK_S)


def end_run_engine(run_engine: RunEngine) -> None:
    """Cancel what is left on the RunEngine's loop, and end the loop and its thread."""
    if not end_loop(run_engine.loop, run_engine._th, LOOP_TIMEOUT_S):
        logger.warning("Something blocks the event loop of the RunEngine; its thread ends with the process")
    set_bluesky_event_loop(None)


class DaemonExecutor(ThreadPoolExecutor):
    """Runs each blocking call of an event loop on a daemon thread of its own.

    The pool of the standard library has a few threads, which calls that hang use up, and the interpreter waits for
    them at its exit.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._threads_of_calls: set[threading.Thread] = set()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function on a daemon thread."""
        future: Future[Any] = Future()

        def call() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    try:
                        result = function(*args, **kwargs)
                    except BaseException as error:
                        future.set_exception(error)
                    else:
                        future.set_result(result)
            finally:
                self._threads_of_calls.discard(threading.current_thread())

        thread = threading.Thread(target=call, name="asyncio call", daemon=True)
        self._threads_of_calls.add(thread)
        thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Wait a moment for calls under way; those that hang are left behind."""
        deadline = time.monotonic() + LOOP_TIMEOUT_S / 2
        for thread in tuple(self._threads_of_calls) if wait else ():
            thread.join(max(0.0, deadline - time.monotonic()))


@contextlib.contextmanager
def _without_ophyd() -> Iterator[None]:
    """Keep the RunEngine, which looks for ophyd's version, from importing all of ophyd for it."""
    if "ophyd" in sys.modules:
        yield
        return
    sys.modules["ophyd"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["ophyd"]


def _quietly(function: Callable[[], object]) -> None:
    try:
        function()
    except Exception as error:
        logger.debug("Ending the plan: %s", error)
