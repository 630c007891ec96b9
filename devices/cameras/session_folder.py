"""The folder of one session's images, which no other session may write into."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import IO

from devices.cameras.errors import ImageFileError, SessionFolderInUse

LOCK_NAME = ".in-use"

# A forked child shares the open file, and with it the lock, which would outlive the session.
_folders: weakref.WeakSet[SessionFolders] = weakref.WeakSet()


class SessionFolders:
    """The image folders of one session: ``<output_dir>/<session>``, locked for it until they are released.

    The lock is a ``flock`` on a file in the folder; the system ends it with the process, however that ends. The file
    says who holds it.
    """

    def __init__(self) -> None:
        self.default_name = time.strftime("%Y-%m-%d_%H%M%S")
        self._locks: dict[Path, IO[str]] = {}
        self._lock = threading.Lock()
        _folders.add(self)

    def claim(self, camera: str, output_dir: Path, session: str | None) -> Path:
        """Make the session's folder and lock it, unless that is done; return it.

        Parameters
        ----------
        camera
            Who asks, for messages.
        output_dir
            The folder above.
        session
            Name of the session; None for the time at which this session began.

        Raises
        ------
        SessionFolderInUse
            Naming the session that has it.
        ImageFileError
            When the folder cannot be made or written.
        """
        folder = Path(os.path.abspath(output_dir.expanduser())) / (session or self.default_name)
        with self._lock:
            if folder not in self._locks:
                self._locks[folder] = _locked(camera, folder)
        return folder

    def release(self) -> None:
        """Let go of all folders."""
        with self._lock:
            while self._locks:
                _, file = self._locks.popitem()
                with contextlib.suppress(OSError):
                    file.truncate(0)
                file.close()

    def forget(self) -> None:
        """Close this process's copies of the locks, which stay with the process they were forked from."""
        while self._locks:
            _, file = self._locks.popitem()
            file.close()


def _locked(camera: str, folder: Path) -> IO[str]:
    if sys.platform == "win32":
        raise ImageFileError(camera, folder, "locking the session's folder needs flock, which Windows does not have")
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise ImageFileError(camera, folder, error.strerror or str(error)) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(file)
        file.close()
        raise SessionFolderInUse(camera, folder, holder) from None
    file.truncate(0)
    json.dump(
        {
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
        file,
    )
    file.flush()
    return file


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return "{user} on {host}, process {process}, since {since}".format(**holder)
    except (ValueError, KeyError, TypeError):
        return "another session"


def _forget_in_child() -> None:
    for folders in list(_folders):
        with contextlib.suppress(OSError):
            folders.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
