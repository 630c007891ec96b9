"""Where the sockets of a user's sessions are: a directory that nobody else can enter, under a short path."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from coexistence.errors import CoexistenceError

LONGEST_SOCKET_PATH = 100
"""Bytes; systems allow 104 (macOS) or 108 (Linux) with the zero at the end."""

_NAME_LENGTH = 32


class ControlDirectoryError(CoexistenceError):
    """The directory for control sockets cannot be used; `path` is where it is, `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"sessions cannot be seen from other terminals: {path} {reason}. Remove it, or set XDG_RUNTIME_DIR to a "
            "directory of your own."
        )


def control_directory() -> Path:
    """Return the directory of this user's control sockets, made when missing.

    It is `tandem` in `XDG_RUNTIME_DIR`; where that is not set, or too long for a socket's path, `tandem-<uid>` in
    the system's directory for temporary files.

    Raises
    ------
    ControlDirectoryError
        It belongs to somebody else, or others may enter it.
    """
    directory = _place()
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ControlDirectoryError(directory, f"cannot be made ({error.strerror})") from error
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ControlDirectoryError(directory, "is no directory")
    if found.st_uid != os.getuid():
        raise ControlDirectoryError(directory, "belongs to another user")
    if found.st_mode & 0o077:
        directory.chmod(0o700)
    return directory


def _place() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        directory = Path(runtime) / "tandem"
        if len(os.fsencode(directory)) + _NAME_LENGTH <= LONGEST_SOCKET_PATH:
            return directory
    name = f"tandem-{os.getuid()}"
    directory = Path(tempfile.gettempdir()) / name
    is_short = len(os.fsencode(directory)) + _NAME_LENGTH <= LONGEST_SOCKET_PATH
    return directory if is_short else Path("/tmp") / name
