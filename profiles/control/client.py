"""The other end of the control channel: running sessions are found and asked."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coexistence.errors import CoexistenceError
from profiles.control.directory import control_directory

CONNECT_S = 1.0
INTRODUCTION_S = 3.0
"""How long a session may take to say which one it is; that waits for nothing."""
ANSWER_S = 10.0
"""A health check asks each instrument, which takes as long as a busy wire lets it."""


class SessionGone(CoexistenceError):
    """A session ended, or does not answer; `pid` is that of its process, 0 when it never said."""

    def __init__(self, pid: int, reason: str) -> None:
        self.pid = pid
        self.reason = reason
        super().__init__(f"the session of process {pid} does not answer: {reason}")


class RequestRefused(CoexistenceError):
    """A session understood what it was asked, and did not answer it; `reason` is what it said."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass
class RunningSession:
    """A session of this user that can be asked; close it after use, or use it in a `with` block.

    Attributes
    ----------
    facts
        What the session said of itself: `pid`, `name`, `data_dir`, `began` and more.
    """

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    _socket: socket.socket | None = None

    @property
    def pid(self) -> int:
        """The session's process."""
        return int(self.facts.get("pid", 0))

    def ask(self, question: str) -> Any:
        """Return the answer to `session`, `wires`, `health`, `plan` or `measurements`.

        Raises
        ------
        SessionGone
            It ended, or does not answer within 10 s.
        RequestRefused
            It does not know the question or could not answer it.
        """
        try:
            if self._socket is None:
                self._socket = _connected(self.path)
            self._socket.sendall(json.dumps({"ask": question}).encode() + b"\n")
            answer = json.loads(_read_line(self._socket))
        except (OSError, ValueError) as error:
            self.close()
            raise SessionGone(self.pid, str(error) or type(error).__name__) from error
        if not answer["ok"]:
            raise RequestRefused(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> RunningSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def running_sessions(data_dir: Path | None = None) -> Iterator[list[RunningSession]]:
    """Find this user's running sessions, oldest first; their connections end with the block.

    Sockets that sessions left behind when they were killed are removed.

    Parameters
    ----------
    data_dir
        Only sessions whose runs are kept there.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for path in sorted(control_directory().glob("*.sock")):
            session = stack.enter_context(RunningSession(path))
            try:
                session._socket = _connected(path, INTRODUCTION_S)
            except ConnectionRefusedError:
                # Some systems refuse when a session is asked by many at once as well.
                if not _is_alive(path):
                    path.unlink(missing_ok=True)
                continue
            except OSError:
                continue
            with contextlib.suppress(SessionGone, RequestRefused):
                session.facts = session.ask("session")
                session._socket.settimeout(ANSWER_S)
                if data_dir is None or Path(session.facts["data_dir"]) == data_dir.expanduser().resolve():
                    found.append(session)
        yield sorted(found, key=lambda session: float(session.facts["began"]))


def _is_alive(path: Path) -> bool:
    """Whether the process runs that a socket is named after."""
    import psutil

    pid, _, _ = path.name.partition("-")
    return pid.isdigit() and psutil.pid_exists(int(pid))


def _connected(path: Path, answer_s: float = ANSWER_S) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_S)
        connection.connect(str(path))
        connection.settimeout(answer_s)
    except OSError:
        connection.close()
        raise
    return connection


def _read_line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            raise ConnectionResetError("the session has ended")
        received += part
    return bytes(received)
