"""What goes into every start document: metadata that outlives a session, numbered scans, and provenance."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coexistence.config import DualConfig

RECORDED_PACKAGES = (
    "ophyd-tandem",
    "bluesky",
    "event-model",
    "ophyd",
    "ophyd-async",
    "numpy",
    "pyserial",
    "pyvisa",
    "tiled",
)

_OF_ONE_SESSION = frozenset({"scan_id", "versions"})


class SharedMetadata(dict[str, Any]):
    """`RE.md` in a file that several sessions may use at once.

    Setting or removing a key changes only that key in the file, under a lock, so that two sessions never undo
    each other's changes; a reader of the file sees it either before or after. What other sessions have set is
    seen by the next session. `scan_id` and `versions` belong to the session and are not stored; scan numbers
    come from :meth:`next_scan_id`.

    Parameters
    ----------
    path
        The file; it need not exist.

    Raises
    ------
    ValueError
        The file is no JSON object; it is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(f".{path.name}.lock")
        super().__init__(self._read()["metadata"])

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in _OF_ONE_SESSION:
            stored = json.loads(json.dumps(value, default=_plain))  # refuses what the file could not hold
            with self._changing() as content:
                content["metadata"][key] = stored
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        with self._changing() as content:
            content["metadata"].pop(key, None)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, storing `default` when there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **values: Any) -> None:
        """Store all given values."""
        for key, value in dict(*others, **values).items():
            self[key] = value

    def pop(self, key: str, *default: Any) -> Any:
        """Remove `key` here and in the file; return its value."""
        if key not in self and default:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove the last key here and in the file; return it with its value."""
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove every key here and in the file; scan numbers go on."""
        for key in list(self):
            del self[key]

    def next_scan_id(self, _: Mapping[str, Any] | None = None) -> int:
        """Return the next scan number: each is given out once, whatever session asks. For `RE.scan_id_source`."""
        with self._changing() as content:
            content["scan_id"] += 1
            return int(content["scan_id"])

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        import fcntl  # does not exist on Windows, where no session can record

        with self._lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self._read()
            yield content
            draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            with draft.open("w") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text())
        except FileNotFoundError:
            content = {}
        except ValueError as error:
            raise ValueError(f"{self._path} is damaged ({error}): repair or remove it") from error
        return {"scan_id": content.get("scan_id", 0), "metadata": content.get("metadata", {})}


def _plain(value: Any) -> Any:
    """Turn numpy's scalars and arrays into what JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} cannot be kept as metadata: use text, numbers, lists and dictionaries of them")


class Provenance:
    """Adds to a run's metadata where its numbers come from; for `RE.md_normalizer`.

    `instruments` is asked for the facts of each connected instrument by id when a run starts. A run that says
    what it uses (`detectors` and `motors`, as bluesky's plans do) gets the facts of these, others those of all.
    """

    def __init__(self, config: DualConfig, instruments: Callable[[], Mapping[str, Mapping[str, Any]]]) -> None:
        application = config.application
        self._instruments = instruments
        self._facts: dict[str, Any] = {
            "operator": application.operator or _user_name(),
            "configuration": {
                "name": application.name,
                "fingerprint": config.fingerprint,
                "files": [str(path.resolve()) for path in config.files],
            },
        }
        for key in ("sample", "proposal"):
            if (value := getattr(application, key)) is not None:
                self._facts[key] = value

    def __call__(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metadata with provenance; what the user has set wins."""
        instruments = dict(self._instruments())
        used = {*metadata.get("detectors", ()), *metadata.get("motors", ())}
        if used:
            instruments = {name: facts for name, facts in instruments.items() if name in used}
        versions = {**metadata.get("versions", {}), **package_versions()}
        return {**self._facts, "instruments": instruments, **metadata, "versions": versions}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide what a measurement means, by import-like name."""
    found = {}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name.replace("-", "_")] = version(name)
    return found


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())
