"""Some room on the disk that is given up when the disk is full, so that the end of a run can still be written."""

from __future__ import annotations

import errno
import os
import secrets
from io import FileIO
from pathlib import Path

from .locking import FileLock

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The system's error numbers for a full disk, and for one that is full for this user."""

RESERVE_BYTES = 2**20
"""Least room for the documents at hand when a disk fills up, and the stop document."""


class Reserve:
    """A file that takes room until the room is needed.

    It is named and locked as a draft of a journal is, so that the catalog daemon clears it away after its process
    was killed. A forked child neither holds it nor gives it up.

    Parameters
    ----------
    folder : Path
        A folder on the disk in question; the one of the journals.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / f"reserve-{os.getpid()}-{secrets.token_hex(4)}.jsonl.new")
        self._size = 0

    @property
    def held(self) -> bool:
        """Whether there is any room to give up."""
        return self._lock.held

    def hold(self, size: int = RESERVE_BYTES) -> None:
        """Take so much room, unless it is taken already.

        Raises
        ------
        OSError
            The disk has not that much; what was held before is held still.
        """
        held = self._size if self.held else 0
        if size <= held:
            return
        try:
            self._lock.acquire()
            with open(self._lock.path, "r+b", buffering=0) as file:
                try:
                    _allocate(file, held, size - held)
                except OSError:
                    file.truncate(held)
                    raise
        except OSError:
            if not held:
                self.give_up()
            raise
        self._size = size

    def give_up(self) -> bool:
        """Give the room back to the disk; return whether there was any."""
        if not self.held:
            return False
        self._lock.path.unlink(missing_ok=True)
        self._lock.release()
        self._size = 0
        return True


def _allocate(file: FileIO, begin: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), begin, size)
            return
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
    file.seek(begin)  # not every file system can set room aside
    while size:
        size -= file.write(bytes(min(size, RESERVE_BYTES)))
