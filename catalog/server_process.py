"""The server of a data directory as its daemon sees it: started, watched, started again."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import subprocess
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from .directory import CatalogPhase, CatalogState, DataDirectory
from .errors import DataDirectoryError
from .external import container_of_runs
from .launch import module_command, open_log
from .rewriting import DAEMON_HEADER

logger = logging.getLogger("catalog.daemon")

STOP_PATIENCE_S = 5.0
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STARTS_BEFORE_FAILED = 2


class ServerProcess:
    """The tiled server of one data directory: started, watched, started again when it dies.

    The listening socket belongs to the daemon and is inherited by the server, so the address is known before
    the server is up and stays the same when it is started again; clients that connect meanwhile wait.
    """

    def __init__(self, directory: DataDirectory) -> None:
        self.directory = directory
        self.restarts = 0
        self.problem = ""
        self.refusing = False
        self._socket = _listen(directory)
        host, port = self._socket.getsockname()
        self.url = f"http://{host}:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._failures = 0
        self._next_start = 0.0
        self._phase: CatalogPhase = "starting"

    def watch(self) -> None:
        """Start the server when there is none; to be called often."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self._note_end(status)
        if self._process is None and time.monotonic() >= self._next_start:
            self._start()

    def wait_ready(self, timeout: float) -> bool:
        """Wait until the server answers; return whether it does."""
        return self._ready.wait(timeout)

    @property
    def ready(self) -> bool:
        """Whether the server has answered since it was started."""
        return self._ready.is_set()

    @property
    def given_up(self) -> bool:
        """Whether nobody need wait for the server any more."""
        return self._phase == "failed" or self.refusing

    def refuses(self, problem: str) -> None:
        """Tell the sessions that the server answers and yet takes no runs; `accepts` takes it back."""
        self.problem = problem
        self.refusing = True
        self.publish()

    def accepts(self) -> None:
        """Tell the sessions that the server takes runs again."""
        self.problem = ""
        self.refusing = False
        self.publish()

    def restart(self, problem: str) -> None:
        """Kill a server that does not answer; `watch` starts the next."""
        logger.error("The server is started again: %s", problem)
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End the server, at first kindly."""
        self._phase = "stopping"
        self.publish()
        self._ready.clear()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._socket.close()

    def container(self, timeout: float) -> Any:
        """Return the client of the container of runs, which is created the first time.

        Parameters
        ----------
        timeout : float
            Seconds after which a request counts as unanswered.
        """
        container = container_of_runs(self.url, self.directory.read_key(), timeout)
        container.context.http_client.headers[DAEMON_HEADER] = "1"
        return container

    def publish(self) -> None:
        """Tell the sessions how things stand."""
        CatalogState(
            phase=self._phase,
            url=self.url,
            daemon_pid=os.getpid(),
            server_pid=self._process.pid if self._process is not None else None,
            problem=self.problem,
            restarts=self.restarts,
        ).write(self.directory)

    def _start(self) -> None:
        descriptor = self._socket.fileno()
        with open_log(self.directory.server_log) as log:
            self._process = subprocess.Popen(
                module_command("catalog.server", self.directory.root, descriptor),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[descriptor],
                cwd=self.directory.root,
            )
        self.publish()
        threading.Thread(target=self._await_ready, args=(self._process,), name="server readiness", daemon=True).start()

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        # The request waits in the socket's queue until the server serves; a reply is the readiness.
        while self._process is process and process.poll() is None:
            connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=5.0)
            try:
                connection.request("GET", "/healthz")
                answered = connection.getresponse().status == http.client.OK
            except (OSError, http.client.HTTPException):
                answered = False
            finally:
                connection.close()
            if answered and self._process is process:
                self._failures = 0
                self._phase, self.problem = "ready", ""
                self.publish()
                self._ready.set()
                logger.info("The server is ready at %s", self.url)
                return

    def _note_end(self, status: int) -> None:
        was_ready = self._ready.is_set()
        self._ready.clear()
        self._process = None
        self.restarts += 1
        self._failures = 1 if was_ready else self._failures + 1
        pause = min(FIRST_BACKOFF_S * 2 ** (self._failures - 1), LONGEST_BACKOFF_S)
        self._next_start = time.monotonic() + (0.0 if was_ready else pause)
        self.problem = f"The server ended with status {status}."
        self._phase = "failed" if self._failures >= STARTS_BEFORE_FAILED else "restarting"
        logger.error("%s It is started again.", self.problem)
        self.publish()


def _listen(directory: DataDirectory) -> socket.socket:
    """Return a socket on loopback, at the port of the server before if that is free."""
    for port in (directory.read_port(), 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
            continue
        listener.listen(128)
        directory.write_port(listener.getsockname()[1])
        return listener
    raise DataDirectoryError(directory.root, "No port is free on the loopback interface.")
