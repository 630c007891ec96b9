"""Readers do not see a run while it is deleted and written again: their requests wait until it is back.

Before the daemon empties a run on the server, it leaves a mark in the data directory, and takes it away when everything
that the journal held by then is there again. The directory's own server heeds the mark for whoever asks
(`RewriteGate`); the clients of this package do so too (`PatientTransport`), since the server may be somebody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import httpx

from .directory import RUNS_KEY, DataDirectory
from .errors import CatalogTimeout

PATIENCE_S = 60.0
"""Longest that a request waits for a run to be back; a million rows take less."""

POLL_INTERVAL_S = 0.05
READERS_PATIENCE_S = 30.0
"""Longest that the daemon, before it deletes a run, waits for those who are reading it."""

DAEMON_HEADER = "x-catalog-daemon"
"""Tells the daemon's requests, which write the run that all others wait for."""

READS_OF_WIDE_TABLES = "/table/partition/"
"""Reads that name many columns are sent as POST."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class RewriteGate:
    """Stands before a server's application: lets nobody read a run that is being written again, until it is back.

    The daemon's own requests pass; what deletes waits for those who are reading the run already. Whoever has waited
    for too long gets the status 503.

    Parameters
    ----------
    application : callable
        The server's ASGI application.
    directory : DataDirectory
        Where the marks lie.
    patience_s : float
        Seconds that a reader waits at most.
    """

    def __init__(self, application: Application, directory: DataDirectory, patience_s: float = PATIENCE_S) -> None:
        self._application = application
        self._directory = directory
        self._patience_s = patience_s
        self._readers: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on when its time has come."""
        uid = _run_in(scope["path"]) if scope["type"] == "http" else ""
        if not uid:
            await self._application(scope, receive, send)
        elif any(name == DAEMON_HEADER.encode() for name, _ in scope["headers"]):
            if scope["method"] == "DELETE" and is_rewritten(self._directory, uid):
                await self._until(lambda: not self._readers[uid], READERS_PATIENCE_S)
            await self._application(scope, receive, send)
        elif await self._until(lambda: not is_rewritten(self._directory, uid), self._patience_s):
            self._readers[uid] += 1
            try:
                await self._application(scope, receive, send)
            finally:
                self._readers[uid] -= 1
                if not self._readers[uid]:
                    del self._readers[uid]
        else:
            text = f"Run {uid} is being written to the catalog again: try again.".encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"10")]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": text})

    async def _until(self, condition: Callable[[], bool], patience_s: float) -> bool:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began >= patience_s:
                return False
            await asyncio.sleep(POLL_INTERVAL_S)
        return True


def _run_in(path: str) -> str:
    """Return the uid of the run that an address of tiled's names, or nothing."""
    return path.partition(f"/{RUNS_KEY}/")[2].partition("/")[0]


def is_rewritten(directory: DataDirectory, uid: str) -> bool:
    """Tell whether a run is away from the server and will be back; nobody knows it of one that the catalog refuses."""
    return directory.rewrite_mark(uid).exists() and not directory.delivery_problem(uid).exists()


def undelivered_run(directory: DataDirectory, parts: Iterable[str]) -> str | None:
    """Return the run that a path on the server leads to, if it may still grow or be written again."""
    return next((part for part in parts if part and directory.journal_of(part).exists()), None)


class PatientTransport(httpx.BaseTransport):
    """Hands requests on, but those about a run that is being written again not before it is back.

    Parameters
    ----------
    transport : httpx.BaseTransport
        Who sends them.
    directory : DataDirectory
        Where the marks lie.
    patience_s : float
        Seconds to wait at most.
    """

    def __init__(
        self, transport: httpx.BaseTransport, directory: DataDirectory, patience_s: float = PATIENCE_S
    ) -> None:
        self._transport = transport
        self.directory = directory
        self._patience_s = patience_s

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the reply.

        Raises
        ------
        CatalogTimeout
            The run was not back in time.
        """
        path = request.url.path
        reads = request.method == "GET" or (request.method == "POST" and READS_OF_WIDE_TABLES in path)
        if not reads or (uid := undelivered_run(self.directory, path.split("/"))) is None:
            return self._transport.handle_request(request)
        asked_again = False
        began = time.monotonic()
        while True:
            self._wait_until_written(uid, began)
            response = self._transport.handle_request(request)
            if is_rewritten(self.directory, uid):
                response.close()  # it may tell of half a run
            elif response.status_code == httpx.codes.NOT_FOUND and not asked_again:
                response.close()  # the run may have been gone and come back meanwhile
                asked_again = True
            else:
                return response

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _wait_until_written(self, uid: str, began: float) -> None:
        while is_rewritten(self.directory, uid):
            waited = time.monotonic() - began
            if waited >= self._patience_s:
                raise CatalogTimeout(
                    self.directory.root,
                    f"Run {uid} is being written to the catalog again, and was not back within "
                    f"{self._patience_s:g} s. Nothing is lost: try again, or read it from its journal with "
                    f'catalog.original_documents("{self.directory.root}", "{uid}").',
                    waited,
                )
            time.sleep(POLL_INTERVAL_S)


def make_patient(http_client: Any, directory: DataDirectory) -> None:
    """Have a client's requests wait for runs that are being written again."""
    if not isinstance(http_client._transport, PatientTransport):
        http_client._transport = PatientTransport(http_client._transport, directory)


def data_directory_of(http_client: Any) -> DataDirectory | None:
    """Return the data directory whose catalog a client reads, when it is one that `make_patient` has had."""
    transport = http_client._transport
    return transport.directory if isinstance(transport, PatientTransport) else None
