"""What a reader meets whose server is gone: it waits for one that is started again, and is told of one that is not."""

from __future__ import annotations

import time
from typing import Any

import httpx

from .client import key_rejected, start_failure
from .directory import CatalogState, DataDirectory
from .errors import CatalogTimeout, CatalogUnavailable
from .external import ExternalServer
from .launch import daemon_expected, leases_held, start_daemon_if_missing

PATIENCE_S = 60.0
"""Longest that a request waits for the directory's own server, which its daemon starts again within seconds."""

PATIENCE_WITH_OTHERS_S = 10.0
"""Longest that it waits for a server run by somebody else."""

PATIENCE_WITH_ERRORS_S = 20.0
"""How long a server may answer a question with errors of its own, which the client repeats for as long as it can."""

POLL_INTERVAL_S = 0.2

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_KEY_REFUSED = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})


class OutageTransport(httpx.BaseTransport):
    """Hands requests on, once more where the server went down meanwhile, and tells in a line when it stays away.

    Parameters
    ----------
    transport : httpx.BaseTransport
        Who sends them.
    directory : DataDirectory
        Whose catalog is read.
    """

    def __init__(self, transport: httpx.BaseTransport, directory: DataDirectory) -> None:
        self._transport = transport
        self._directory = directory
        self._failing_since: dict[str, float] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the reply.

        Raises
        ------
        CatalogUnavailable
            The server has been stopped, does not start, stays away, broke off what must not be asked for twice, or
            has answered this question with nothing but errors of its own for :data:`PATIENCE_WITH_ERRORS_S` seconds.
        CatalogTimeout
            It did not answer for :data:`PATIENCE_S` seconds, and its daemon has not given it up.
        KeyRejected
            It does not accept the key any more.
        """
        began = time.monotonic()
        while True:
            try:
                response = self._transport.handle_request(request)
            except httpx.TransportError as error:
                if request.method not in _REPEATABLE and not isinstance(error, _NOT_SENT):
                    raise CatalogUnavailable(
                        self._directory.root,
                        f"The catalog's server of {self._directory.root} broke off a request that changes something "
                        f"({type(error).__name__}): look whether it was done before you repeat it.",
                    ) from None
                self._wait(began, error)
            else:
                if response.status_code in _KEY_REFUSED:
                    response.close()
                    raise key_rejected(self._directory)
                self._watch_errors(request, response)
                return response

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _watch_errors(self, request: httpx.Request, response: httpx.Response) -> None:
        """Raise what the user is to know when the server fails at a question again and again."""
        # Without the query, which may hold the key.
        question = f"{request.method} {request.url.path}"
        if not response.is_server_error:
            self._failing_since.pop(question, None)
            return
        now = time.monotonic()
        failing_for = now - self._failing_since.setdefault(question, now)
        if failing_for < PATIENCE_WITH_ERRORS_S:
            return
        response.close()
        self._failing_since.pop(question, None)  # another thread may have told of it
        directory = self._directory
        external = ExternalServer.read(directory)
        who = f"The catalog's server {external.uri if external else f'of {directory.root}'}"
        what_to_do = "ask who runs it" if external else f"look into {directory.server_log}"
        raise CatalogUnavailable(
            directory.root,
            f"{who} answers {response.status_code} {response.reason_phrase} to {question}, for {failing_for:.0f} s by "
            f"now: {what_to_do}, and try again. Nothing is lost.",
        )

    def _wait(self, began: float, error: httpx.TransportError) -> None:
        """Wait a moment before the next attempt, or raise what the user is to know."""
        directory = self._directory
        waited = time.monotonic() - began
        # What httpx says may hold the address, and with it the key.
        if (external := ExternalServer.read(directory)) is not None:
            if waited >= PATIENCE_WITH_OTHERS_S:
                raise CatalogUnavailable(
                    directory.root,
                    f"The catalog's server {external.uri} does not answer ({type(error).__name__}): ask who runs it, "
                    "and try again when it is back. Nothing is lost.",
                ) from None
        else:
            if not daemon_expected(directory):
                if not leases_held(directory):
                    raise stopped(directory) from None
                start_daemon_if_missing(directory)
            state = CatalogState.read(directory)
            if state is not None and state.phase == "failed":
                raise start_failure(directory, state) from None
            if waited >= PATIENCE_S:
                raise CatalogTimeout(
                    directory.root,
                    f"The catalog's server of {directory.root} does not answer ({type(error).__name__}). Nothing is "
                    f"lost: try again, or look into {directory.daemon_log}.",
                    waited,
                ) from None
        time.sleep(POLL_INTERVAL_S)


def stopped(directory: DataDirectory) -> CatalogUnavailable:
    """Return the error for whoever goes on with a catalog whose server has been stopped."""
    return CatalogUnavailable(
        directory.root,
        f"The catalog of {directory.root} has been stopped: the session that held it is closed. Open it again with "
        f'catalog.open_catalog("{directory.root}"); runs taken from it before must be asked for again, too.',
    )


def tell_of_outages(http_client: Any, directory: DataDirectory) -> None:
    """Have a client's requests wait for a server that is started again, and tell when there is none."""
    if not isinstance(http_client._transport, OutageTransport):
        http_client._transport = OutageTransport(http_client._transport, directory)
