"""Ask the past: open the catalog of a data directory, wait for one's own runs, stop the daemon."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .directory import RUNS_KEY, CatalogState, DataDirectory
from .errors import (
    CatalogStartFailed,
    CatalogTimeout,
    DeliveryFailed,
    KeyRejected,
)
from .external import ExternalServer, api_address, is_local
from .journal import find_journal
from .launch import (
    daemon_expected,
    daemon_runs,
    ensure_daemon,
    failed_start,
    leases_held,
    leave_daemon,
    start_daemon_if_missing,
)
from .locking import is_locked

if TYPE_CHECKING:
    from .run_catalog import RunCatalog

POLL_INTERVAL_S = 0.05
LOG_TAIL_LINES = 15


def open_catalog(data_dir: str | os.PathLike[str], wait: float = 30.0, *, lazy: bool = False) -> RunCatalog:
    """Return the catalog of the runs in a data directory.

    The catalog's server is started when it does not run, and stays as long as this process lives (see
    `leave_daemon`). ``cat[-1]`` is the latest run, ``cat[12]`` the one with scan id 12, ``cat["5a9d3f"]`` the
    one whose uid begins so; ``cat.search(plan="scan", since="yesterday")`` (see `search_runs`),
    ``cat.search(Key("plan_name") == "scan")`` and ``cat.search(TimeRange(since="2025-01-01"))`` search; ``cat.v1``
    is databroker's ``Broker``.

    Parameters
    ----------
    data_dir : path
        The data directory that sessions have recorded to.
    wait : float
        Seconds to wait for the server; it takes about four to start.
    lazy : bool
        Give images and other arrays as dask arrays, which are fetched piece by piece when they are computed.

    Raises
    ------
    NoCatalog
        No session has ever recorded there.
    DataDirectoryError
        The directory cannot be read and written.
    CatalogStartFailed
        The server ended before it could serve; the error shows the end of its log.
    CatalogTimeout
        It was not ready in time.
    KeyRejected
        The key in the data directory is not the server's.
    """
    directory = DataDirectory.existing(data_dir)
    began = time.monotonic()
    ensure_daemon(directory.root)
    url = wait_for_server(directory, wait)
    return connect(directory, url, wait - (time.monotonic() - began), lazy=lazy)


def wait_for_server(directory: DataDirectory, timeout: float) -> str:
    """Wait until the server is ready and return its address, without the key.

    Raises
    ------
    CatalogStartFailed
        The server cannot start.
    CatalogTimeout
        It was not ready in time.
    """
    began = time.monotonic()
    while True:
        state = CatalogState.read(directory)
        alive = daemon_runs(directory)
        if alive and state is not None:
            if state.phase == "ready":
                return state.url
            if state.phase == "failed":
                raise start_failure(directory, state)
        waited = time.monotonic() - began
        if waited >= timeout:
            raise CatalogTimeout(
                directory.root,
                f"The catalog of {directory.root} was not ready within {timeout:g} s. It may need longer on a "
                f"busy computer: try again. The log is in {directory.daemon_log}.",
                waited,
                _tail(directory.daemon_log),
            )
        if not alive:
            if (status := failed_start(directory)) is not None:
                raise CatalogStartFailed(
                    directory.root,
                    f"The catalog daemon ended with status {status} before it could serve. The whole log is in "
                    f"{directory.daemon_log}.",
                    _tail(directory.daemon_log),
                )
            start_daemon_if_missing(directory)
        time.sleep(POLL_INTERVAL_S)


def start_failure(directory: DataDirectory, state: CatalogState) -> CatalogStartFailed:
    """Return the error that says why the server does not start."""
    if ExternalServer.read(directory) is not None:
        return CatalogStartFailed(
            directory.root,
            f"The catalog's server is out of reach: {state.problem} Runs are recorded and will be delivered when "
            "it is back.",
        )
    return CatalogStartFailed(
        directory.root,
        f"The catalog's server does not start. {state.problem} The whole log is in {directory.server_log}.",
        _tail(directory.server_log),
    )


def connect(directory: DataDirectory, url: str, timeout: float, *, lazy: bool = False) -> RunCatalog:
    """Return the client of a server that is ready.

    Raises
    ------
    KeyRejected
        The key in the data directory is not the server's.
    CatalogTimeout
        The container of runs did not appear in time.
    """
    import httpx
    from tiled.client import from_uri

    from .outages import tell_of_outages
    from .rewriting import make_patient
    from .run_catalog import RunCatalog

    began = time.monotonic()
    external = ExternalServer.read(directory)
    key = directory.read_key() if external is None else external.key()
    try:
        kind = "dask" if lazy else "numpy"
        root = from_uri(api_address(url), kind, api_key=key, trust_env=not is_local(url))
        tell_of_outages(root.context.http_client, directory)
        make_patient(root.context.http_client, directory)
        root = root.new_variation(structure_clients=private_structure_clients(root.structure_clients, lazy))
        while True:
            if any(spec.name == "CatalogOfBlueskyRuns" for spec in root.specs):
                # An external server's container of runs, named as such.
                return RunCatalog(root.context, item=root.item, structure_clients=root.structure_clients)
            with contextlib.suppress(KeyError):
                catalog: RunCatalog = root[RUNS_KEY]
                return catalog
            # The daemon creates the container right after the server's first start.
            waited = time.monotonic() - began
            if waited > max(timeout, 1.0):
                raise CatalogTimeout(
                    directory.root,
                    f"The server at {url} runs but the catalog daemon has not set it up. The log is in "
                    f"{directory.daemon_log}.",
                    waited,
                    _tail(directory.daemon_log),
                )
            time.sleep(POLL_INTERVAL_S)
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            # The original error's text holds the address, and with it possibly the key.
            raise key_rejected(directory) from None
        raise
    except httpx.TransportError as error:
        raise CatalogTimeout(
            directory.root,
            f"The server at {url} broke off ({type(error).__name__}) when it was asked for the catalog of "
            f"{directory.root}: try again.",
            time.monotonic() - began,
        ) from None


def key_rejected(directory: DataDirectory) -> KeyRejected:
    """Return the error that says where the key was found which the server does not accept."""
    if (external := ExternalServer.read(directory)) is not None:
        place = external.key_file or f"the environment variable {external.key_variable}"
        return KeyRejected(directory.root, place, f"Ask who runs {external.uri} for another.")
    return KeyRejected(
        directory.root,
        str(directory.key_file),
        "The file was changed after the server had started: stop the server with "
        f"catalog.shut_down({str(directory.root)!r}) and open the catalog again.",
    )


def private_structure_clients(structure_clients: Any, lazy: bool = False) -> Any:
    """Return tiled's table of client classes, with ours, as one that really is copied when it is copied.

    The older faces of a catalog, ``v1`` and ``v2``, exchange classes in what they take for a copy of their own;
    it is not one, and from then on every run read in this process would have the older face.
    """
    from tiled.utils import OneShotCachedMap

    from .growing import LazyColumn, NumpyColumn
    from .run_catalog import Run, RunCatalog, Stream

    class PrivateClients(OneShotCachedMap[str, Any]):  # type: ignore[misc]
        def __copy__(self) -> PrivateClients:
            own = PrivateClients()
            state: Any = self.__getstate__()
            own.__setstate__(dict(state))
            return own

    own = PrivateClients()
    own.__setstate__(dict(structure_clients.__getstate__()))
    own.set("array", lambda: LazyColumn if lazy else NumpyColumn)
    own.set("ragged", _ragged_column)
    own.set("CatalogOfBlueskyRuns", lambda: RunCatalog)
    own.set("BlueskyRun", lambda: Run)
    own.set("BlueskyEventStream", lambda: Stream)
    return own


def _ragged_column() -> Any:
    from .growing_ragged import RaggedColumn

    return RaggedColumn


def wait_delivered(data_dir: str | os.PathLike[str], uid: str, timeout: float = 30.0) -> None:
    """Wait until a run is in the catalog as a whole, its stop document included.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uid : str
        The run's uid or its beginning.
    timeout : float
        Seconds to wait.

    Raises
    ------
    UnknownRun
        No run, or more than one, has this uid.
    DeliveryFailed
        The catalog refuses the run; its journal is kept.
    CatalogTimeout
        It was not delivered in time; nothing is lost.
    """
    directory = DataDirectory.at(data_dir)
    find_journal(directory.root, uid)
    began = time.monotonic()
    while (path := find_journal(directory.root, uid)).suffix != ".gz":
        full_uid = path.name.removesuffix(".jsonl")
        with contextlib.suppress(FileNotFoundError):
            raise DeliveryFailed(full_uid, directory.delivery_problem(full_uid).read_text("utf-8").strip())
        waited = time.monotonic() - began
        if waited >= timeout:
            state = CatalogState.read(directory)
            raise CatalogTimeout(
                directory.root,
                f"Run {uid} was not in the catalog within {timeout:g} s (server: "
                f"{state.phase if state else 'not running'}). Nothing is lost: it is delivered when the server "
                "is ready.",
                waited,
            )
        if not daemon_runs(directory):
            start_daemon_if_missing(directory)
        time.sleep(POLL_INTERVAL_S)


def wait_settled(data_dir: str | os.PathLike[str], timeout: float = 10.0) -> bool:
    """Wait until every run that has ended is in the catalog; False when one is not in time.

    Runs that go on and runs the catalog refuses are not waited for.

    Parameters
    ----------
    data_dir : path
        The data directory; its daemon runs.
    timeout : float
        Seconds to wait.
    """
    directory = DataDirectory.at(data_dir)
    deadline = time.monotonic() + timeout
    while any(
        not is_locked(path) and not path.with_suffix(".problem").exists() for path in directory.journals.glob("*.jsonl")
    ):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def web_address(data_dir: str | os.PathLike[str], with_key: bool = False, wait: float = 30.0) -> str:
    """Return the address of the catalog's web page.

    Parameters
    ----------
    data_dir : path
        The data directory.
    with_key : bool
        Append the key, so that the browser is let in; whoever sees the address can then read and change the
        catalog.
    wait : float
        Seconds to wait for the server.

    Raises
    ------
    NoCatalog, CatalogStartFailed, CatalogTimeout
        As `open_catalog`.
    """
    directory = DataDirectory.existing(data_dir)
    ensure_daemon(directory.root)
    return page_address(directory, wait_for_server(directory, wait), with_key)


def page_address(directory: DataDirectory, url: str, with_key: bool) -> str:
    """Return the address of the web page of a server."""
    if not with_key:
        return f"{url}/"
    external = ExternalServer.read(directory)
    return f"{url}/?api_key={quote(directory.read_key() if external is None else external.key())}"


def shut_down(data_dir: str | os.PathLike[str], timeout: float = 30.0) -> bool:
    """Leave the daemon, and wait until it has delivered everything and stopped.

    Parameters
    ----------
    data_dir : path
        The data directory.
    timeout : float
        Seconds to wait.

    Returns
    -------
    bool
        True when the daemon has stopped, False when other sessions still use it.

    Raises
    ------
    CatalogTimeout
        It was still busy; it goes on and stops by itself.
    DataDirectoryError
        The directory cannot be read and written.
    """
    directory = DataDirectory.at(data_dir)
    leave_daemon(directory.root)
    with directory.access():
        for mark in (directory.keep_mark, directory.linger_mark):
            mark.unlink(missing_ok=True)
        return wait_stopped(directory, timeout)


def wait_stopped(directory: DataDirectory, timeout: float) -> bool:
    """Wait until the daemon stops; False when it stays for other sessions or because it was told to.

    Raises
    ------
    CatalogTimeout
        It was still busy.
    """
    began = time.monotonic()
    while daemon_expected(directory):
        if leases_held(directory) or directory.keep_mark.exists() or directory.lingers:
            return False
        waited = time.monotonic() - began
        if waited >= timeout:
            raise CatalogTimeout(
                directory.root,
                f"The catalog daemon of {directory.root} is still busy after {timeout:g} s. It goes on moving "
                "runs into the catalog and stops by itself afterwards.",
                waited,
            )
        time.sleep(POLL_INTERVAL_S)
    return True


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:])
    return ""
