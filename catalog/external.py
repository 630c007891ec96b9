"""A tiled server that is run by somebody else, in place of the data directory's own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .directory import RUNS_KEY, CatalogPhase, CatalogState, DataDirectory
from .errors import CatalogError

logger = logging.getLogger("catalog.daemon")

RETRY_INTERVAL_S = 2.0
FIRST_REPLY_TIMEOUT_S = 30.0
ATTEMPTS_BEFORE_FAILED = 2


@dataclass(frozen=True, kw_only=True)
class ExternalServer:
    """Where an external tiled server is and where its key is found.

    Attributes
    ----------
    uri : str
        Address of the server, or of a container on it; ``https://tiled.lab.example``.
    key_file : str
        File that holds the key; nobody else should be able to read it.
    key_variable : str
        Environment variable that holds the key when there is no such file.
    """

    uri: str
    key_file: str = ""
    key_variable: str = "TILED_API_KEY"

    def __post_init__(self) -> None:
        parts = urlsplit(self.uri)
        if parts.query or parts.username or parts.password:
            # An address is stored, logged and shown.
            raise CatalogError(
                f"The address of the server at {parts.hostname} holds more than the address. Give it without "
                "user, password and what follows the question mark, and name a file that holds the key."
            )

    def key(self) -> str:
        """Return the key.

        Raises
        ------
        CatalogError
            It is neither in the file nor in the environment.
        """
        if self.key_file:
            try:
                return Path(self.key_file).expanduser().read_text("utf-8").strip()
            except OSError as error:
                raise CatalogError(
                    f"The key of {self.uri} cannot be read: {self.key_file}: {error.strerror}."
                ) from error
        if key := os.environ.get(self.key_variable):
            return key
        raise CatalogError(
            f"There is no key for {self.uri}. Put it into the environment variable {self.key_variable} or name a "
            "file that holds it."
        )

    def store(self, directory: DataDirectory) -> None:
        """Make this the server of a data directory; a daemon that runs already keeps to the one it has."""
        draft = directory.external_file.with_suffix(".json.new")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
        draft.replace(directory.external_file)

    @classmethod
    def read(cls, directory: DataDirectory) -> ExternalServer | None:
        """Return the external server of a data directory, or None when it has its own."""
        try:
            stored = directory.external_file.read_text("utf-8")
        except FileNotFoundError:
            return None
        try:
            return cls(**json.loads(stored))
        except (ValueError, TypeError) as error:
            raise CatalogError(f"{directory.external_file} does not describe a server: {error}") from error


def container_of_runs(uri: str, key: str, timeout: float) -> Any:
    """Return the client of the container of runs on a server, which is created the first time.

    Parameters
    ----------
    uri : str
        Address of the server or of a container; a container of runs is taken as it is.
    key : str
        The server's key.
    timeout : float
        Seconds after which a request counts as unanswered.
    """
    import httpx
    from tiled.client import from_uri
    from tiled.structures.core import Spec

    root = from_uri(api_address(uri), api_key=key, timeout=httpx.Timeout(timeout), trust_env=not is_local(uri))
    if any(spec.name == "CatalogOfBlueskyRuns" for spec in root.specs):
        return root
    if RUNS_KEY not in root:
        root.create_container(key=RUNS_KEY, specs=[Spec("CatalogOfBlueskyRuns", "3.0")])
    return root[RUNS_KEY]


def api_address(uri: str) -> str:
    """Return the address that tiled's client wants."""
    return uri if "/api/v1" in uri else f"{uri.rstrip('/')}/api/v1"


def is_local(uri: str) -> bool:
    """Tell whether an address is on this computer, so that no proxy stands between."""
    return urlsplit(uri).hostname in ("127.0.0.1", "localhost", "::1")


def explain(error: Exception, uri: str) -> str:
    """Return in words what a server answered, or that it did not; no part of it is secret.

    Parameters
    ----------
    error : Exception
        What a request ended with.
    uri : str
        Address of the server, which is asked for its version when it answers what this computer does not understand.
    """
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return f"it does not accept the key ({status})."
        if error.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            return f"it answers with an error ({status})."
    elif isinstance(error, httpx.TimeoutException):
        return "it does not answer in time."
    elif isinstance(error, httpx.TransportError):
        return f"it cannot be reached ({error})."
    elif isinstance(error, CatalogError):
        return str(error)
    return f"{type(error).__name__}: {error}.{_other_version(uri)}"


def _other_version(uri: str) -> str:
    import httpx
    from tiled import __version__ as own

    with contextlib.suppress(Exception):
        about = httpx.get(f"{api_address(uri)}/", timeout=5.0, trust_env=not is_local(uri)).json()
        if (version := about["library_version"]) != own:
            return (
                f" The server has tiled {version}, this computer {own}: install the same version here, or update "
                "the server."
            )
    return ""


class ExternalServerWatch:
    """Looks for an external server on behalf of the daemon; it starts and stops nothing."""

    def __init__(self, directory: DataDirectory, server: ExternalServer) -> None:
        self.directory = directory
        self.url = server.uri
        self.problem = ""
        self.ready = False
        self.refusing = False
        self._server = server
        self._phase: CatalogPhase = "starting"
        self._failures = 0
        self._next_try = 0.0
        self.publish()

    def watch(self) -> None:
        """Do nothing: whoever runs the server watches it."""

    def wait_ready(self, timeout: float) -> bool:
        """Try to reach the server when it is time to, or wait; return whether it answers."""
        if not self.ready:
            if time.monotonic() < self._next_try:
                time.sleep(timeout)
            else:
                self._try()
        return self.ready

    @property
    def given_up(self) -> bool:
        """Whether nobody need wait for the server any more."""
        return self._phase == "failed" or self.refusing

    def refuses(self, problem: str) -> None:
        """Tell the sessions that the server answers and yet takes no runs; `accepts` takes it back."""
        self.problem = f"{self.url}: {problem}"
        self.refusing = True
        self.publish()

    def accepts(self) -> None:
        """Tell the sessions that the server takes runs again."""
        self.problem = ""
        self.refusing = False
        self.publish()

    def container(self, timeout: float) -> Any:
        """Return the client of the container of runs; see `container_of_runs`."""
        return container_of_runs(self._server.uri, self._server.key(), timeout)

    def restart(self, problem: str) -> None:
        """Look again for a server that does not answer."""
        logger.error("The server at %s: %s", self.url, problem)
        self.ready = False

    def stop(self) -> None:
        """Tell that nobody looks any more."""
        self._phase = "stopping"
        self.publish()

    def publish(self) -> None:
        """Tell the sessions how things stand."""
        CatalogState(
            phase=self._phase, url=self.url, daemon_pid=os.getpid(), problem=self.problem, restarts=self._failures
        ).write(self.directory)

    def _try(self) -> None:
        try:
            self.container(FIRST_REPLY_TIMEOUT_S)
        except Exception as error:
            self._failures += 1
            self._next_try = time.monotonic() + RETRY_INTERVAL_S
            problem = f"{self.url} does not let us in: {explain(error, self.url)}"
            if problem != self.problem:
                logger.error("%s", problem)
            self.problem = problem
            self._phase = "failed" if self._failures >= ATTEMPTS_BEFORE_FAILED else "restarting"
        else:
            self._failures = 0
            self.problem = ""
            self._phase = "ready"
            self.ready = True
        self.publish()
