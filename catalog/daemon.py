"""The catalog daemon: one process per data directory that owns the tiled server and fills it from the journals.

``python -m catalog.daemon <data_dir>`` is started on demand by the sessions. It stops by itself when no session
holds a lease, everything is delivered and nobody asked to keep it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .directory import REPLAYED, RUNS_KEY, CatalogPhase, CatalogState, DataDirectory
from .errors import DataDirectoryError, JournalCorrupt
from .journal import JournalTail, compress_journal
from .launch import leases_held, module_command, open_log, start_daemon
from .locking import FileLock, is_locked

if TYPE_CHECKING:
    from .delivery import ReportedProblem, RunDelivery

logger = logging.getLogger("catalog.daemon")

POLL_INTERVAL_S = 0.2
"""How often the leases and the server are looked at."""

DELIVERY_INTERVAL_S = 0.4
"""Time between two batches of a run that goes on: what is emitted is visible within a second."""

NICENESS = 5
"""The scan that is being recorded comes first."""

REPLY_TIMEOUT_S = 120.0
"""A server that leaves a request unanswered for longer is taken for hung and started again."""

SERVER_STOP_S = 5.0
DRAFT_PATIENCE_S = 60.0
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
                self._process.wait(SERVER_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._socket.close()

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


class Deliveries(threading.Thread):
    """Moves every journal of a data directory into the server, as long as it runs."""

    def __init__(self, directory: DataDirectory, server: ServerProcess) -> None:
        super().__init__(name="delivery", daemon=True)
        self.directory = directory
        self.server = server
        self.idle_since_scan_at = 0.0
        self._runs: dict[Path, RunDelivery] = {}
        self._problems: dict[Path, ReportedProblem] = {}
        self._damaged: set[Path] = set()
        self._begins: dict[Path, float] = {}
        self._trouble = ""
        self._ending = threading.Event()

    def end(self, timeout: float) -> None:
        """Stop after the batch in hand."""
        self._ending.set()
        self.join(timeout)

    def run(self) -> None:
        """Deliver until told to end."""
        # The imports take seconds and run while the server starts.
        from . import delivery  # noqa: F401

        for note in self.directory.journals.glob("*.problem"):
            note.unlink()  # every run gets a new chance
        _mend_broken_replays(self.directory)
        container = None
        while not self._ending.is_set():
            if container is None:
                if not self.server.wait_ready(POLL_INTERVAL_S):
                    self._look_for_work()
                    continue
                container = self._connect()
                continue
            started = time.monotonic()
            paths = self._look_for_work(started)
            busy = False
            for path in paths:
                outcome = self._step(path, container)
                if outcome is None:
                    container = None
                    break
                busy = busy or outcome
            if not busy:
                self._ending.wait(DELIVERY_INTERVAL_S)

    def _look_for_work(self, now: float | None = None) -> list[Path]:
        """Return the journals to deliver, oldest first."""
        paths = _undelivered(self.directory)
        for gone in set(self._runs) - set(paths):
            self._runs.pop(gone).restart()
        # The order in which runs reach the server is the order in which it lists them.
        self._begins = {path: self._begins.get(path) or _start_time(path) for path in paths}
        paths.sort(key=self._begins.__getitem__)
        waiting = [path for path in paths if path not in self._damaged]
        if all(p in self._problems and self._problems[p].given_up_for_now for p in waiting):
            self.idle_since_scan_at = now or time.monotonic()
        return [p for p in waiting if p not in self._problems or self._problems[p].due]

    def _connect(self) -> Any:
        """Return the client of the container of runs, which is created the first time."""
        import httpx
        from tiled.client import from_uri
        from tiled.structures.core import Spec

        try:
            root = from_uri(
                f"{self.server.url}/api/v1",
                api_key=self.directory.read_key(),
                timeout=httpx.Timeout(REPLY_TIMEOUT_S),
                trust_env=False,
            )
            if RUNS_KEY not in root:
                root.create_container(key=RUNS_KEY, specs=[Spec("CatalogOfBlueskyRuns", "3.0")])
            return root[RUNS_KEY]
        except Exception as error:
            # The text of an HTTP error holds the address, never the key, which goes in a header.
            if (trouble := f"{type(error).__name__}: {error}") != self._trouble:
                logger.error("The server does not let the daemon in: %s", trouble)
            self._trouble = trouble
            self._ending.wait(1.0)
            return None

    def _step(self, path: Path, container: Any) -> bool | None:
        """Deliver a batch of one run; None when the server is gone."""
        import httpx

        from .delivery import ReportedProblem, RunDelivery

        if path not in self._runs:
            if self._is_delivered(path):
                return True
            self._runs[path] = RunDelivery(self.directory, path)
        run = self._runs[path]
        try:
            busy = run.step(container)
            if run.stopped:
                run.finish()
                del self._runs[path]
                logger.info("Run %s is delivered", run.uid)
            self._problems.pop(path, None)
            return busy
        except httpx.TransportError as error:
            logger.warning("The server broke off: %s", type(error).__name__)
            for each in self._runs.values():
                each.restart()
            if isinstance(error, httpx.TimeoutException):
                self.server.restart(f"it left a request unanswered for {REPLY_TIMEOUT_S:.0f} s.")
            self._ending.wait(POLL_INTERVAL_S)
            return None
        except JournalCorrupt as error:
            logger.error("%s", error)
            problem = ReportedProblem(self.directory, run.uid)
            for _ in range(ReportedProblem.PATIENCE):
                problem.failed(error)
            self._damaged.add(path)
            run.restart()
            return True
        except Exception as error:
            logger.exception("Run %s could not be delivered", run.uid)
            self._problems.setdefault(path, ReportedProblem(self.directory, run.uid)).failed(error)
            run.restart()
            return True

    def _is_delivered(self, path: Path) -> bool:
        """Clear away a journal whose compressed form exists already: a crash came between the two."""
        name = path.name + ".gz"
        for month in self.directory.delivered_folders():
            if (month / name).exists():
                compress_journal(self.directory, path)
                return True
        return False


def _undelivered(directory: DataDirectory) -> list[Path]:
    """Return the journals that still lie in the journal folder, and clear away starts that came to nothing."""
    found = []
    with os.scandir(directory.journals) as entries:
        for entry in entries:
            if entry.name.endswith(".jsonl") and entry.is_file():
                found.append(Path(entry.path))
            elif entry.name.endswith(".jsonl.new"):
                # The lock comes a moment after the name.
                with contextlib.suppress(FileNotFoundError):
                    age = time.time() - entry.stat().st_mtime
                    if age > DRAFT_PATIENCE_S and not is_locked(entry.path):
                        os.unlink(entry.path)
    return found


def _mend_broken_replays(directory: DataDirectory) -> None:
    """Give delivered journals their names back whose replay was killed halfway."""
    for folder in directory.delivered_folders():
        for kept in folder.glob(f"*.jsonl.gz{REPLAYED}"):
            delivered = kept.with_name(kept.name.removesuffix(REPLAYED))
            undelivered = directory.journals / delivered.name.removesuffix(".gz")
            if undelivered.exists():
                kept.unlink()
            else:
                kept.rename(delivered)


def _start_time(path: Path) -> float:
    """Return when a run began."""
    tail = JournalTail(path)
    try:
        for _, document in tail.read(1):
            return float(document["time"])
    except (JournalCorrupt, KeyError, TypeError, ValueError):
        pass
    finally:
        tail.close()
    return path.stat().st_mtime


class CatalogDaemon:
    """Keeps server and delivery going until nobody needs them."""

    def __init__(self, directory: DataDirectory) -> None:
        self.directory = directory
        self._told_to_stop = threading.Event()

    def run(self) -> None:
        """Serve; return when there is nothing left to do or a signal came."""
        self._forget_old_keep_mark()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._told_to_stop.set())
        server = ServerProcess(self.directory)
        server.watch()
        deliveries = Deliveries(self.directory, server)
        deliveries.start()
        logger.info("The catalog daemon serves %s at %s", self.directory.root, server.url)
        try:
            alone_since: float | None = None
            while not self._told_to_stop.wait(POLL_INTERVAL_S):
                server.watch()
                if leases_held(self.directory) or self.directory.keep_mark.exists():
                    alone_since = None
                elif alone_since is None:
                    alone_since = time.monotonic()
                elif deliveries.idle_since_scan_at > alone_since:
                    break
        finally:
            deliveries.end(SERVER_STOP_S)
            server.stop()
            self.directory.keep_mark.unlink(missing_ok=True)
            self.directory.state_file.unlink(missing_ok=True)
            logger.info("The catalog daemon has stopped")

    @property
    def told_to_stop(self) -> bool:
        """Whether a signal ended it, rather than that nobody needed it."""
        return self._told_to_stop.is_set()

    def _forget_old_keep_mark(self) -> None:
        # The mark of a session that lives on was made for this daemon, any other for one that died.
        with contextlib.suppress(FileNotFoundError):
            try:
                os.kill(int(self.directory.keep_mark.read_text()), 0)
            except (ValueError, ProcessLookupError):
                self.directory.keep_mark.unlink()
            except PermissionError:
                pass


def _listen(directory: DataDirectory) -> socket.socket:
    """Return a socket on loopback, at the port of the server before if that is free."""
    previous = CatalogState.read(directory)
    ports = [urlsplit(previous.url).port or 0, 0] if previous else [0]
    for port in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
            continue
        listener.listen(128)
        return listener
    raise DataDirectoryError(directory.root, "No port is free on the loopback interface.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon of one data directory; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m catalog.daemon", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    directory = DataDirectory.at(parser.parse_args(arguments).data_dir)
    # Every request is either safe to lose or answered by writing the run again: nothing is retried blindly.
    os.environ["TILED_RETRY_ATTEMPTS"] = "1"
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("catalog").setLevel(logging.INFO)
    try:
        directory.create()
    except DataDirectoryError as error:
        logger.error("%s", error)
        return 1
    lock = FileLock(directory.daemon_lock)
    if not lock.acquire():
        return 0
    os.nice(NICENESS)
    daemon = CatalogDaemon(directory)
    daemon.run()
    lock.release()
    # A session may have come after the last look and seen a daemon that was already leaving.
    if not daemon.told_to_stop and leases_held(directory):
        start_daemon(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
