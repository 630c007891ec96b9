"""What the machine costs: a test of a deadline must not fail because nothing at all ran for a moment."""

import ctypes
import threading
import time
from typing import Self

INTERVAL_S = 0.002
LEAST_STALL_S = 0.005


class Bystander(threading.Thread):
    """A thread that only sleeps and wakes, while a block runs: how late it wakes is the machine's doing."""

    def __init__(self) -> None:
        super().__init__(name="bystander", daemon=True)
        self.stalls: list[tuple[float, float]] = []
        """When nothing ran, as ``time.monotonic()``: from when it should have woken to when it did."""
        self._done = threading.Event()

    def run(self) -> None:
        done = False
        while not done:
            due = time.monotonic() + INTERVAL_S
            done = self._done.wait(INTERVAL_S)
            now = time.monotonic()
            if now - due > LEAST_STALL_S:
                self.stalls.append((due, now))

    @property
    def longest_stall_s(self) -> float:
        return max((end - begin for begin, end in self.stalls), default=0.0)

    def stalled_s(self, began: float, ended: float) -> float:
        """Return for how long nothing ran between two times; ask after the block, for the last stall counts too."""
        return sum(max(0.0, min(end, ended) - max(begin, began)) for begin, end in self.stalls)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


class TimeTaken:
    """Seconds that a block took, and those of them (``own_s``) in which the machine ran."""

    def __enter__(self) -> Self:
        self._bystander = Bystander().__enter__()
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        ended = time.monotonic()
        self._bystander.__exit__()
        self.elapsed_s = ended - self._began
        self.own_s = self.elapsed_s - self._bystander.stalled_s(self._began, ended)


def stand_still(seconds: float) -> None:
    """Let nothing else in this process run for a while, as on a machine that is busy elsewhere."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # keeps the interpreter's lock
