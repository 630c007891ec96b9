"""SIGTERM ends a program the way Ctrl-C does: by an exception in the main thread, so that everything is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
"""What a shell sees of a program that SIGTERM ended."""


def exit_on_sigterm(may_exit: Callable[[], bool] = lambda: True) -> Callable[[], None]:
    """Turn SIGTERM into ``SystemExit`` in the main thread, so that ``with`` blocks and ``atexit`` close what is open.

    A second SIGTERM changes nothing: the program is ending already.

    Parameters
    ----------
    may_exit
        Asked at the signal; False leaves the program to whoever is ending it. It may take no lock.

    Returns
    -------
    callable
        Brings back the handler that was there before. Outside the main thread, which alone may set handlers,
        nothing is changed and this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    struck = False

    def strike(_number: int, _frame: FrameType | None) -> None:
        nonlocal struck
        if struck or not may_exit():
            return
        struck = True
        raise SystemExit(EXIT_CODE)

    previous = signal.signal(signal.SIGTERM, strike)

    def restore() -> None:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is strike:
            signal.signal(signal.SIGTERM, previous)

    return restore
