"""The thread of the catalog daemon that moves journal after journal into the server."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checksums import Checksums
from .directory import REPLAYED, DataDirectory
from .errors import JournalCorrupt
from .external import explain
from .journal import JournalTail, compress_journal
from .locking import is_locked
from .notes import mark_for_mirror, mirror_notes

if TYPE_CHECKING:
    from .delivery import ReportedProblem, RunDelivery
    from .external import ExternalServerWatch
    from .server_process import ServerProcess

logger = logging.getLogger("catalog.daemon")

READY_POLL_S = 0.2

DELIVERY_INTERVAL_S = 0.4
"""Time from one batch of a run that goes on to the next: what is emitted is visible within a second."""

SHORTEST_PAUSE_S = 0.1
"""Between batches of a server that is slower than that."""

REPLY_TIMEOUT_S = 120.0
"""A server that leaves a request unanswered for longer is taken for hung and started again."""

DRAFT_PATIENCE_S = 60.0

LOWEST_FREE_BYTES = 8 * 2**20
"""With less than this on the disk a failure is put down to it."""

REFUSALS_BEFORE_TOLD = 2
FIRST_REFUSAL_PAUSE_S = 0.5
LONGEST_REFUSAL_PAUSE_S = 5.0

_REFUSED_TO_ALL = frozenset({401, 403, 429, 502, 503, 504})


class Deliveries(threading.Thread):
    """Moves every journal of a data directory into the server, as long as it runs."""

    def __init__(self, directory: DataDirectory, server: ServerProcess | ExternalServerWatch) -> None:
        super().__init__(name="delivery", daemon=True)
        self.directory = directory
        self.server = server
        self.idle_since_scan_at = 0.0
        self._runs: dict[Path, RunDelivery] = {}
        self._problems: dict[Path, ReportedProblem] = {}
        self._damaged: set[Path] = set()
        self._begins: dict[Path, float] = {}
        self._trouble = ""
        self._refusals = 0
        self._checksums = Checksums(directory)
        self._ending = threading.Event()

    def end(self, timeout: float) -> None:
        """Stop after the batch in hand."""
        self._ending.set()
        self._checksums.end()
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
                if not self.server.wait_ready(READY_POLL_S):
                    self._look_for_work()
                    continue
                container = self._connect()
                continue
            started = time.monotonic()
            self._do_beside(container)
            paths = self._look_for_work(started)
            busy = False
            for path in paths:
                outcome = self._step(path, container)
                if outcome is None:
                    container = None
                    break
                busy = busy or outcome
            if not paths:
                self._note_success()
            if not busy:
                self._ending.wait(max(SHORTEST_PAUSE_S, DELIVERY_INTERVAL_S - (time.monotonic() - started)))

    def _look_for_work(self, now: float | None = None) -> list[Path]:
        """Return the journals to deliver, oldest first."""
        paths = _undelivered(self.directory)
        for gone in set(self._runs) - set(paths):
            self._runs.pop(gone).restart()
        for gone in (self._damaged | self._problems.keys()) - set(paths):
            self._damaged.discard(gone)
            self._problems.pop(gone, None)
            gone.with_suffix(".problem").unlink(missing_ok=True)
        # The order in which runs reach the server is the order in which it lists them.
        self._begins = {path: self._begins.get(path) or _start_time(path) for path in paths}
        paths.sort(key=self._begins.__getitem__)
        waiting = [path for path in paths if path not in self._damaged]
        done = all(p in self._problems and self._problems[p].given_up_for_now for p in waiting)
        if done and not self._checksums.busy:
            self.idle_since_scan_at = now or time.monotonic()
        return [p for p in waiting if p not in self._problems or self._problems[p].due]

    def _connect(self) -> Any:
        """Return the client of the container of runs, which is created the first time."""
        try:
            return self.server.container(REPLY_TIMEOUT_S)
        except Exception as error:
            self._note_refusal(error)
            return None

    def _note_refusal(self, error: Exception) -> None:
        """Tell, the second time in a row, that the server as such takes nothing, and wait a little longer each time."""
        problem = (
            f"no space is left on the disk of {self.directory.root}."
            if self._disk_is_full()
            else explain(error, self.server.url)
        )
        if problem != self._trouble:
            logger.error("The server takes no runs: %s", problem)
        self._trouble = problem
        self._refusals += 1
        if self._refusals >= REFUSALS_BEFORE_TOLD:
            self.server.refuses(problem)
        self._ending.wait(min(FIRST_REFUSAL_PAUSE_S * 2 ** (self._refusals - 1), LONGEST_REFUSAL_PAUSE_S))

    def _note_success(self) -> None:
        if self._refusals:
            self._refusals = 0
            self._trouble = ""
            self.server.accepts()

    def _do_beside(self, container: Any) -> None:
        """Bring notes and checksums into the catalog; they are safe in files, and a failure is tried again."""
        try:
            mirror_notes(self.directory, container)
            self._checksums.step(container)
        except Exception as error:
            if (trouble := f"{type(error).__name__}: {error}") != self._trouble:
                logger.warning("Notes or checksums could not be brought into the catalog: %s", trouble)
            self._trouble = trouble

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
                mark_for_mirror(self.directory, run.uid)
                if run.files:
                    self._checksums.add(run.uid, run.files)
                run.finish()
                del self._runs[path]
                logger.info("Run %s is delivered", run.uid)
            self._problems.pop(path, None)
            self._note_success()
            return busy
        except httpx.TransportError as error:
            logger.warning("The server broke off: %s", type(error).__name__)
            for each in self._runs.values():
                each.restart()
            if isinstance(error, httpx.TimeoutException):
                self.server.restart(f"it left a request unanswered for {REPLY_TIMEOUT_S:g} s.")
            self._ending.wait(READY_POLL_S)
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
            run.restart()
            if self._is_the_servers(error):
                self._note_refusal(error)
                return None
            logger.exception("Run %s could not be delivered", run.uid)
            self._problems.setdefault(path, ReportedProblem(self.directory, run.uid)).failed(error)
            return True

    def _disk_is_full(self) -> bool:
        return shutil.disk_usage(self.directory.root).free < LOWEST_FREE_BYTES

    def _is_the_servers(self, error: Exception) -> bool:
        """Tell whether a failure concerns all runs: by its kind, or because the server refuses everything."""
        import httpx

        if self._disk_is_full():
            return True
        if not isinstance(error, httpx.HTTPStatusError):
            return False
        if error.response.status_code in _REFUSED_TO_ALL:
            return True
        if error.response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
            return False
        try:
            self.server.container(REPLY_TIMEOUT_S)
        except Exception:
            return True
        return False

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
    with contextlib.suppress(JournalCorrupt, KeyError, TypeError, ValueError, OSError):
        tail = JournalTail(path)
        try:
            for _, document in tail.read(1):
                return float(document["time"])
        finally:
            tail.close()
    return time.time()  # it is damaged, unreadable or gone: delivery tells
