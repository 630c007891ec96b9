"""The session's end of the control channel: answers questions on a Unix socket, in JSON lines."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from profiles.control.credentials import peer_user
from profiles.control.directory import control_directory

logger = logging.getLogger("profiles.control")

LONGEST_REQUEST = 4096
"""Bytes of a request, its line end included."""
MOST_CONNECTIONS = 8
"""Connections at one time; further ones are told so and closed."""
PATIENCE_S = 30.0
"""How long a connection may say nothing, and how long it may take to read an answer."""
CLOSING_S = 2.0


class ControlServer:
    """Lets the same user's other processes ask about this one; nothing they ask changes anything.

    A request is a line `{"ask": "wires"}`, its answer a line `{"ok": true, "result": ...}` or
    `{"ok": false, "error": "..."}`; an `id` in the request comes back in the answer. While nobody asks, the server
    is one thread that waits in the system.

    Parameters
    ----------
    questions
        By what is asked, what returns the answer as plain data. They are called on threads of the server, one for
        each connection, and must not wait for anything that waits for them.
    """

    def __init__(self, questions: Mapping[str, Callable[[], Any]]) -> None:
        self._questions = questions
        self._listener: socket.socket | None = None
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._accepting: threading.Thread | None = None
        self.path: Path | None = None

    def start(self) -> None:
        """Open the socket, `<pid>-<random>.sock` in the user's control directory, and answer from now on.

        Raises
        ------
        ControlDirectoryError
            There is no place for it that is only this user's.
        OSError
            The socket cannot be made.
        """
        path = control_directory() / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Who looks for sessions takes a socket that refuses for that of a dead one: it gets its name when it listens.
        unnamed = path.with_suffix(".new")
        try:
            listener.bind(str(unnamed))
            unnamed.chmod(0o600)
            listener.listen(MOST_CONNECTIONS)
            unnamed.rename(path)
        except OSError:
            listener.close()
            unnamed.unlink(missing_ok=True)
            raise
        self._listener, self.path = listener, path
        self._accepting = threading.Thread(target=self._accept, args=(listener,), name="control", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Remove the socket and end all connections; closing twice is harmless."""
        listener, self._listener = self._listener, None
        if listener is None or self.path is None or self._accepting is None:
            return
        # Closing a socket does not wake who waits for it everywhere; a connection does.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waker:
            waker.settimeout(CLOSING_S)
            waker.connect(str(self.path))
        self._accepting.join(CLOSING_S)
        listener.close()
        self.path.unlink(missing_ok=True)
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join(CLOSING_S)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if self._listener is None:
                connection.close()
                return
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        user = peer_user(connection)
        with self._lock:
            number = len(self._connections)
            refusal = ""
            if user is not None and user != os.getuid():
                refusal = "this session belongs to another user"
            elif number >= MOST_CONNECTIONS:
                refusal = f"this session is asked by {number} others already; try again later"
            if not refusal:
                thread = threading.Thread(
                    target=self._serve, args=(connection,), name=f"control {number + 1}", daemon=True
                )
                self._connections[connection] = thread
                thread.start()
                return
        with contextlib.suppress(OSError), connection:
            connection.settimeout(0.0)
            connection.sendall(_line({"ok": False, "error": refusal}))

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(PATIENCE_S)
            with connection.makefile("rb") as requests:
                while line := requests.readline(LONGEST_REQUEST):
                    connection.sendall(_line(self._answer(line)))
                    if not line.endswith(b"\n"):
                        return
        except OSError:
            pass  # who asked has gone, or takes too long
        finally:
            with self._lock:
                del self._connections[connection]
            connection.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        if not line.endswith(b"\n"):
            return {"ok": False, "error": f"a request is one line of at most {LONGEST_REQUEST} bytes"}
        try:
            request = json.loads(line)
            asked = request["ask"]
        except (ValueError, TypeError, KeyError):
            return {"ok": False, "error": 'a request is a line of JSON such as {"ask": "wires"}'}
        answer: dict[str, Any] = {"id": request["id"]} if "id" in request else {}
        question = self._questions.get(asked) if isinstance(asked, str) else None
        if question is None:
            known = ", ".join(self._questions)
            return {**answer, "ok": False, "error": f"nothing is known of {asked!r}; ask for: {known}"}
        try:
            return {**answer, "ok": True, "result": question()}
        except Exception as error:
            logger.info("The question %r could not be answered", asked, exc_info=error)
            return {**answer, "ok": False, "error": str(error) or type(error).__name__}


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, default=str).encode() + b"\n"
