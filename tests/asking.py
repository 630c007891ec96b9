"""Asking something of a RunEngine while it runs, as Ctrl-C does: from a thread, which may come late."""

import threading
import time
from collections.abc import Callable
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, single_gen


class Asking:
    """Requests from threads of their own, before which a run does not end.

    Parameters
    ----------
    requests
        How many there will be.
    """

    def __init__(self, requests: int = 1) -> None:
        self._missing = requests
        self._threads: list[threading.Thread] = []
        self._at_the_end = False

    def ask(self, request: Callable[[], object]) -> None:
        """Make a request, for a pause or an abort, and return at once."""
        self._threads.append(threading.Thread(target=request, daemon=True))
        self._threads[-1].start()
        self._missing -= 1

    def awaited(self, plan: Any) -> Any:
        """Go through a plan, and wait at the end of its run until each request was made and has had its effect."""

        def wait(message: Msg) -> tuple[Any, None]:
            if message.command != "close_run" or self._at_the_end:
                return None, None
            self._at_the_end = True
            return bpp.pchain(self._wait(), single_gen(message)), None

        return bpp.plan_mutator(plan, wait)

    def join(self) -> None:
        """Wait for the end of the threads."""
        for thread in self._threads:
            thread.join(20)

    def _wait(self) -> Any:
        deadline = time.monotonic() + 20
        while self._missing or any(thread.is_alive() for thread in self._threads):
            assert time.monotonic() < deadline, "nothing was asked for, or it had no effect"
            yield from bps.sleep(0.01)
