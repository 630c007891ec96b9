"""A tiled profile of a data directory, by which ``databroker`` and tiled's ``from_profile`` find it by name.

``databroker.catalog["name"]``, ``Broker.named("name")`` and ``from_profile("name")`` then work in any process of the
user; the catalog's server is started when it does not run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .client import private_structure_clients, wait_for_server
from .directory import RUNS_KEY, DataDirectory
from .errors import CatalogError
from .external import ExternalServer, api_address
from .launch import ensure_daemon

if TYPE_CHECKING:
    from .run_catalog import RunCatalog

_PREFIX = "at_"
SERVER_WAIT_S = 60.0


class ProfileError(CatalogError):
    """A profile cannot be written or used as it is.

    Attributes
    ----------
    name : str
        The profile.
    """

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


def write_profile(
    data_dir: str | os.PathLike[str],
    name: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    replace: bool = False,
    wait: float = 30.0,
) -> Path:
    """Write a tiled profile for a data directory and return its file.

    The file holds the server's key and is readable by its user only. It lasts as long as the server keeps its
    port, which it does unless another program has taken it meanwhile.

    Parameters
    ----------
    data_dir : path
        The data directory.
    name : str
        The profile's name: what scripts give to ``Broker.named``.
    folder : path, optional
        Where profiles are; the user's folder of tiled profiles by default.
    replace : bool
        Replace a profile of this name.
    wait : float
        Seconds to wait for the server.

    Raises
    ------
    ProfileError
        There is a profile of this name already, or the name is none of a file.
    NoCatalog, CatalogStartFailed, CatalogTimeout
        As `open_catalog`.
    """
    if not name or name.startswith(".") or set(name) & set("/\\:") or name == "temp":
        raise ProfileError(name, f"'{name}' cannot be the name of a profile: give a plain word.")
    directory = DataDirectory.existing(data_dir)
    path = (Path(folder) if folder is not None else _profiles_folder()) / f"{name}.yml"
    if path.exists() and not replace:
        raise ProfileError(name, f"There is a profile '{name}' already: {path}. Give another name, or replace it.")
    ensure_daemon(directory.root)
    content = {name: _profile(directory, wait_for_server(directory, wait))}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)  # which is YAML as well
        file.write("\n")
    draft.replace(path)
    return path


def _profile(directory: DataDirectory, url: str) -> dict[str, Any]:
    external = ExternalServer.read(directory)
    key = directory.read_key() if external is None else external.key()
    path = f"/metadata/{RUNS_KEY}" if "/metadata/" not in url else ""
    return {
        # tiled's profiles have no place for a key but the address, from which its client takes it at once.
        "uri": f"{api_address(url)}{path}?api_key={quote(key)}",
        # tiled imports this before it connects, which is the moment to have the server up.
        "structure_clients": {"CatalogOfBlueskyRuns": f"{__name__}:{_PREFIX}{os.fsencode(directory.root).hex()}"},
    }


def _profiles_folder() -> Path:
    from tiled.profiles import paths

    return Path(paths[-1])


def __getattr__(name: str) -> Any:
    """Return the catalog class of the data directory a profile names, after its server has been started."""
    if not name.startswith(_PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    directory = DataDirectory.existing(os.fsdecode(bytes.fromhex(name.removeprefix(_PREFIX))))
    ensure_daemon(directory.root)
    wait_for_server(directory, SERVER_WAIT_S)
    return _catalog_class(directory)


def _catalog_class(directory: DataDirectory) -> type[RunCatalog]:
    from .rewriting import make_patient
    from .run_catalog import RunCatalog

    class ProfileCatalog(RunCatalog):
        """The catalog of a profile, whose older faces want more client classes than a profile can name."""

        def __init__(self, context: Any, *args: Any, structure_clients: Any, **kwargs: Any) -> None:
            make_patient(context.http_client, directory)
            if isinstance(structure_clients, dict):
                from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH

                structure_clients = private_structure_clients(DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"])
            super().__init__(context, *args, structure_clients=structure_clients, **kwargs)

    return ProfileCatalog
