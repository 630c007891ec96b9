"""Advisory file locks that end with their process, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UnsupportedPlatform

if TYPE_CHECKING or sys.platform != "win32":
    import fcntl

# A forked child shares the open file description, and with it the lock: without closing the child's copy, a
# killed session would look alive for as long as any of its workers lives.
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive ``flock`` on a file of its own or on a file that is written anyway.

    The lock is advisory, belongs to this process alone (forked children let go of it) and is released by the
    system when the process ends.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock now; return whether that worked. Creates the file when it is missing."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not lock_descriptor(descriptor):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        _held.add(self)
        return True

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def release(self) -> None:
        """Let go of the lock; does nothing when it is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def lock_descriptor(descriptor: int) -> bool:
    """Lock an open file exclusively; return False at once when somebody else holds it."""
    if sys.platform == "win32":
        raise UnsupportedPlatform("Recording runs needs flock, which Windows does not have.")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Tell whether another open file holds the lock on ``path``; a missing file is not locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not lock_descriptor(descriptor)
    finally:
        os.close(descriptor)


def _close_in_child() -> None:
    for lock in list(_held):
        with contextlib.suppress(OSError):
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
