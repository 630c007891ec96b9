"""Readers do not see a run while it is deleted and written again: their requests wait until it is back.

Before the daemon empties a run on the server, it leaves a mark in the data directory, and takes it away when everything
that the journal held by then is there again.
"""

from __future__ import annotations

import time
from typing import Any

import httpx

from .directory import DataDirectory
from .errors import CatalogTimeout

PATIENCE_S = 60.0
"""Longest that a request waits for a run to be back; a million rows take less."""

POLL_INTERVAL_S = 0.05
READS_OF_WIDE_TABLES = "/table/partition/"
"""Reads that name many columns are sent as POST."""


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
        self._directory = directory
        self._patience_s = patience_s

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the reply.

        Raises
        ------
        CatalogTimeout
            The run was not back in time.
        """
        if (uid := self._undelivered_run_of(request)) is None:
            return self._transport.handle_request(request)
        asked_again = False
        began = time.monotonic()
        while True:
            self._wait_until_written(uid, began)
            response = self._transport.handle_request(request)
            if self._is_rewritten(uid):
                response.close()  # it may tell of half a run
            elif response.status_code == httpx.codes.NOT_FOUND and not asked_again:
                response.close()  # the run may have been gone and come back meanwhile
                asked_again = True
            else:
                return response

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _undelivered_run_of(self, request: httpx.Request) -> str | None:
        """Return the run that a request reads, if it is one that may be written again."""
        path = request.url.path
        if request.method == "GET" or (request.method == "POST" and READS_OF_WIDE_TABLES in path):
            for part in path.split("/"):
                if part and self._directory.journal_of(part).exists():
                    return part
        return None

    def _wait_until_written(self, uid: str, began: float) -> None:
        while self._is_rewritten(uid):
            waited = time.monotonic() - began
            if waited >= self._patience_s:
                raise CatalogTimeout(
                    self._directory.root,
                    f"Run {uid} is being written to the catalog again, and was not back within "
                    f"{self._patience_s:g} s. Nothing is lost: try again, or read it from its journal with "
                    f'catalog.original_documents("{self._directory.root}", "{uid}").',
                    waited,
                )
            time.sleep(POLL_INTERVAL_S)

    def _is_rewritten(self, uid: str) -> bool:
        # Nobody knows when a run that the catalog refuses will be back.
        return self._directory.rewrite_mark(uid).exists() and not self._directory.delivery_problem(uid).exists()


def make_patient(http_client: Any, directory: DataDirectory) -> None:
    """Have a client's requests wait for runs that are being written again."""
    http_client._transport = PatientTransport(http_client._transport, directory)
