"""What a measuring session holds of the catalog: its journal, its lease and, when asked for, the past."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .client import connect, page_address, start_failure, wait_delivered, wait_for_server, wait_stopped
from .directory import CatalogState, DataDirectory, uid_of_journal
from .errors import CatalogError, CatalogRefuses, DeliveryFailed
from .external import ExternalServer
from .journal import Journal
from .launch import SessionLease, start_daemon_if_missing

if TYPE_CHECKING:
    from .run_catalog import RunCatalog

WATCH_INTERVAL_S = 2.0
"""How often a session looks whether the catalog daemon is still there."""


class CatalogSession:
    """Records one session's runs, and keeps the catalog up meanwhile.

    Opening it takes milliseconds: the daemon starts in the background and nothing waits for it. A daemon that
    is killed is started again within two seconds.

    Parameters
    ----------
    data_dir : path
        The data directory; created when missing.
    pause : callable, optional
        See `Journal`: ``RE.request_pause``.
    on_trouble : callable, optional
        Called, from any thread and once for each thing, with the error the user should hear of while the scan
        goes on: `JournalWriteError` (see `Journal`), `CatalogStartFailed` when the server does not start,
        `CatalogRefuses` when it takes no runs, `DeliveryFailed` when the catalog refuses a run.
    server : ExternalServer, optional
        A tiled server run by somebody else, in place of one of this data directory's own. A daemon that runs
        already keeps to the server it has.

    Attributes
    ----------
    journal : Journal
        To be subscribed: ``RE.subscribe(session.journal)``.

    Raises
    ------
    DataDirectoryError
        The directory cannot be created or written.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        pause: Callable[[], object] | None = None,
        on_trouble: Callable[[CatalogError], object] | None = None,
        server: ExternalServer | None = None,
    ) -> None:
        self.directory = DataDirectory.at(data_dir)
        self.journal = Journal(self.directory.root, pause=pause, on_trouble=on_trouble)
        self._lease = SessionLease(self.directory.root)
        self._catalog: RunCatalog | None = None
        self._catalog_url = ""
        self._on_trouble = on_trouble
        self._told: set[str] = set()
        self._closing = threading.Event()
        if server is not None:
            server.store(self.directory)
        else:
            self.directory.external_file.unlink(missing_ok=True)
        start_daemon_if_missing(self.directory)
        self._watch = threading.Thread(target=self._keep_daemon, name="catalog watch", daemon=True)
        self._watch.start()

    def catalog(self, wait: float = 30.0) -> RunCatalog:
        """Return the catalog of all runs in the data directory; see `open_catalog`.

        Parameters
        ----------
        wait : float
            Seconds to wait for the server when it is not up yet.

        Raises
        ------
        CatalogStartFailed, CatalogTimeout, KeyRejected
            The server is not there.
        CatalogUnavailable
            The session is closed.
        """
        if self._closing.is_set():
            from .outages import stopped

            raise stopped(self.directory)
        url = wait_for_server(self.directory, wait)
        if self._catalog is None or self._catalog_url != url:
            self._catalog = connect(self.directory, url, wait)
            self._catalog_url = url
        return self._catalog

    def wait_delivered(self, uid: str, timeout: float = 30.0) -> None:
        """Wait until a run is in the catalog as a whole; see `wait_delivered`."""
        wait_delivered(self.directory.root, uid, timeout)

    def web_address(self, with_key: bool = False, wait: float = 30.0) -> str:
        """Return the address of the catalog's web page; see `web_address`."""
        return page_address(self.directory, wait_for_server(self.directory, wait), with_key)

    def keep(self) -> None:
        """Let the catalog run on after this session, until `shut_down`."""
        self.directory.keep_mark.write_text(str(os.getpid()))

    def close(self, wait_delivered: float = 0.0) -> bool:
        """End the session's part; the daemon delivers what is left, and stops if this was the last session.

        Parameters
        ----------
        wait_delivered : float
            Seconds to wait for that; with 0 it happens after this returns.

        Returns
        -------
        bool
            True when the daemon is known to have stopped, everything being delivered.

        Raises
        ------
        CatalogTimeout
            It was still busy; it goes on and stops by itself.
        """
        self._closing.set()
        self._watch.join()
        self.journal.close()
        if self._lease.held and any(self.directory.journals.glob("*.jsonl")):
            start_daemon_if_missing(self.directory)
        self._lease.release()
        return wait_stopped(self.directory, wait_delivered) if wait_delivered > 0 else False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep_daemon(self) -> None:
        while not self._closing.wait(WATCH_INTERVAL_S):
            start_daemon_if_missing(self.directory)
            if self._on_trouble is not None:
                self._tell_of_trouble(self._on_trouble)

    def _tell_of_trouble(self, on_trouble: Callable[[CatalogError], object]) -> None:
        state = CatalogState.read(self.directory)
        if state is not None and "" not in self._told:
            if state.phase == "failed":
                self._told.add("")
                on_trouble(start_failure(self.directory, state))
            elif state.phase == "ready" and state.problem:
                self._told.add("")
                on_trouble(CatalogRefuses(self.directory.root, state.problem))
        for note in self.directory.journals.glob("*.problem"):
            if note.name not in self._told:
                self._told.add(note.name)
                uid = uid_of_journal(note.with_suffix(".jsonl"))
                with contextlib.suppress(FileNotFoundError):
                    on_trouble(DeliveryFailed(uid, note.read_text("utf-8").strip()))
