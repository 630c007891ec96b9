"""Who uses a catalog, and how its daemon comes to life: leases and a detached start."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from .directory import DataDirectory
from .locking import FileLock, is_locked

LONGEST_LOG_BYTES = 5 * 2**20

_started: dict[DataDirectory, subprocess.Popen[bytes]] = {}
_joined: dict[DataDirectory, SessionLease] = {}


class SessionLease:
    """The claim of one session on a catalog: while any is held, the daemon stays.

    It is a locked file in the data directory; the system ends it when the process ends, killed or not.

    Parameters
    ----------
    data_dir : path
        The data directory; created when missing.

    Raises
    ------
    DataDirectoryError
        The directory cannot be created or written.
    """

    def __init__(self, data_dir: str | os.PathLike[str]) -> None:
        self.directory = DataDirectory.at(data_dir)
        self.directory.create()
        name = f"{os.getpid()}-{secrets.token_hex(4)}.lease"
        self._lock = FileLock(self.directory.sessions / f"{name}.new")
        self._lock.acquire()
        # Under its final name a lease is never seen unlocked while its session lives.
        self._path = self.directory.sessions / name
        self._lock.path.rename(self._path)

    @property
    def held(self) -> bool:
        """Whether this lease still counts."""
        return self._lock.held

    def release(self) -> None:
        """Give the lease up; does nothing the second time."""
        if self._lock.held:
            self._path.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def leases_held(directory: DataDirectory) -> int:
    """Count the sessions that use a catalog, and remove the leases of dead ones."""
    held = 0
    for lease in directory.sessions.glob("*.lease"):
        if is_locked(lease):
            held += 1
        else:
            lease.unlink(missing_ok=True)
    return held


def daemon_runs(directory: DataDirectory) -> bool:
    """Tell whether a catalog daemon serves this directory."""
    return is_locked(directory.daemon_lock)


def daemon_expected(directory: DataDirectory) -> bool:
    """Tell whether a daemon serves this directory or one that this process started has not ended."""
    started = _started.get(directory)
    return daemon_runs(directory) or (started is not None and started.poll() is None)


def ensure_daemon(data_dir: str | os.PathLike[str]) -> None:
    """Join the catalog daemon of a data directory for the life of this process, starting it when it is not there.

    Returns without waiting for it. The daemon lives in a session and process group of its own, so that neither
    Ctrl-C nor the end of the terminal reaches it. It stops by itself when no process has joined it any more and
    everything is delivered.

    Raises
    ------
    DataDirectoryError
        The directory cannot be created or written.
    """
    directory = DataDirectory.at(data_dir)
    lease = _joined.get(directory)
    if lease is None or not lease.held:
        _joined[directory] = SessionLease(directory.root)
    start_daemon_if_missing(directory)


def leave_daemon(data_dir: str | os.PathLike[str]) -> None:
    """Take back `ensure_daemon`; does nothing when this process has not joined."""
    if lease := _joined.pop(DataDirectory.at(data_dir), None):
        lease.release()


def start_daemon_if_missing(directory: DataDirectory) -> None:
    """Start a daemon unless one serves the directory or is on its way; the caller holds a lease already."""
    if not daemon_expected(directory):
        _started[directory] = start_daemon(directory)


def failed_start(directory: DataDirectory) -> int | None:
    """Return the exit status of the daemon this process started last, when it is an error."""
    started = _started.get(directory)
    return (started.poll() or None) if started is not None else None


def start_daemon(directory: DataDirectory) -> subprocess.Popen[bytes]:
    """Start a daemon process; a second one ends by itself at once."""
    with open_log(directory.daemon_log) as log:
        return subprocess.Popen(
            module_command("catalog.daemon", directory.root),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory.root,
            start_new_session=True,
        )


def open_log(path: Path) -> IO[bytes]:
    """Open a log to be continued, putting a long one aside first."""
    if path.exists() and path.stat().st_size > LONGEST_LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return open(path, "ab")


def module_command(module: str, *arguments: str | Path | int) -> list[str]:
    """Return the command that runs a module of this package with this interpreter.

    ``-P`` keeps a folder of the same name in the working directory from being taken for this package.
    """
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]
