"""Where everything of a catalog lies inside its data directory."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from .errors import DataDirectoryError, NoCatalog

RUNS_KEY = "runs"
"""Name of the container of runs on the server."""

REPLAYED = ".replayed"
"""Ending of a delivered journal while it is put back among the undelivered ones."""

LINGER_S = 300.0
"""How long a catalog stays up for the next who asks, after a command has read it."""

UNFIT_CHARACTERS = "?#%"

FORMAT = 1
"""Of everything in a data directory; a later form that this version could damage has a higher number."""

CatalogPhase = Literal["starting", "ready", "restarting", "failed", "stopping"]


@dataclass(frozen=True)
class DataDirectory:
    """The names of files and folders below one data directory; whatever else lies there is left alone."""

    root: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> DataDirectory:
        """Name the directory by its real absolute path, so that two spellings are one catalog."""
        return cls(Path(path).expanduser().resolve())

    @classmethod
    def existing(cls, path: str | os.PathLike[str]) -> DataDirectory:
        """Name a directory that a session has recorded to, made ready to be used.

        Raises
        ------
        NoCatalog
            No session has ever recorded there.
        DataDirectoryError
            It cannot be read and written.
        """
        directory = cls.at(path)
        with directory.access():
            # The server's part may have been removed, to be made anew from the journals.
            if not (directory.journals.is_dir() and (directory.server.is_dir() or directory.format_file.exists())):
                raise NoCatalog(path)
        directory.create()
        return directory

    @contextlib.contextmanager
    def access(self) -> Iterator[None]:
        """Have a `DataDirectoryError` raised within for what the user may not read or write."""
        try:
            yield
        except PermissionError as error:
            raise self._inaccessible(error.filename or self.root) from error

    @property
    def journals(self) -> Path:
        """Folder of the journals: live and undelivered ones here, delivered ones in a folder per month."""
        return self.root / "journal"

    @property
    def format_file(self) -> Path:
        """Holds the number of the directory's format."""
        return self.root / "format"

    @property
    def sessions(self) -> Path:
        """Folder of the leases that say who uses the catalog."""
        return self.root / "sessions"

    @property
    def server(self) -> Path:
        """Folder of the server's databases, arrays and logs."""
        return self.root / "server"

    @property
    def database(self) -> Path:
        """The server's catalog of runs (SQLite)."""
        return self.server / "catalog.db"

    @property
    def tables(self) -> Path:
        """The server's tabular data (DuckDB)."""
        return self.server / "tables.duckdb"

    @property
    def arrays(self) -> Path:
        """Folder of the arrays that events carried (Zarr)."""
        return self.server / "arrays"

    @property
    def key_file(self) -> Path:
        """The server's key, readable by its user only."""
        return self.server / "key"

    @property
    def external_file(self) -> Path:
        """Which server to use in place of an own one, when there is such a choice."""
        return self.server / "external.json"

    @property
    def state_file(self) -> Path:
        """Who serves this directory, where, and how far it is."""
        return self.root / "server.json"

    @property
    def daemon_lock(self) -> Path:
        """Held by the one catalog daemon of this directory."""
        return self.server / "daemon.lock"

    @property
    def server_lock(self) -> Path:
        """Held by the one server process of this directory."""
        return self.server / "server.lock"

    @property
    def port_file(self) -> Path:
        """The server's port, which stays the same when the server is started again: bookmarks and profiles last."""
        return self.server / "port"

    @property
    def linger_mark(self) -> Path:
        """Touched by who has read the catalog and may soon again; see `lingers`."""
        return self.sessions / "linger"

    @property
    def lingers(self) -> bool:
        """Whether the daemon is to go on a little without sessions: a server takes seconds to start."""
        try:
            return time.time() - self.linger_mark.stat().st_mtime < LINGER_S
        except FileNotFoundError:
            return False

    @property
    def keep_mark(self) -> Path:
        """Present while the daemon is to go on without sessions."""
        return self.sessions / "keep"

    @property
    def daemon_log(self) -> Path:
        """What the daemon did."""
        return self.server / "daemon.log"

    @property
    def server_log(self) -> Path:
        """What the server said."""
        return self.server / "server.log"

    def create(self) -> None:
        """Create the folders that are missing.

        Raises
        ------
        DataDirectoryError
            The place cannot be created or written, its name cannot stand in a database's address, or a newer
            version has written there what this one does not know.
        """
        if unfit := sorted(set(str(self.root)) & set(UNFIT_CHARACTERS)):
            raise DataDirectoryError(
                self.root,
                f"The data directory {self.root} cannot be used: its name contains {' '.join(unfit)}, which mean "
                "something else in the addresses of databases. Give a directory without them.",
            )
        self._refuse_newer_format()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (self.journals, self.sessions, self.server, self.arrays):
                folder.mkdir(exist_ok=True)
            self.server.chmod(stat.S_IRWXU)
            if not self.format_file.exists():
                self.format_file.write_text(f"{FORMAT}\n", "ascii")
        except OSError as error:
            where = error.filename or self.root
            raise DataDirectoryError(
                where,
                f"The data directory {self.root} cannot be used: {where}: {error.strerror}. "
                "Give a directory that you may write to.",
            ) from error
        for folder in (self.root, self.journals, self.sessions, self.server):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise self._inaccessible(folder)

    def _inaccessible(self, where: str | os.PathLike[str]) -> DataDirectoryError:
        return DataDirectoryError(
            where,
            f"The data directory {self.root} cannot be used: {os.fspath(where)} may not be read and written by you. "
            "Change its permissions or give another directory.",
        )

    def _refuse_newer_format(self) -> None:
        try:
            found = self.format_file.read_text("ascii").strip()
        except (OSError, ValueError):
            return
        if found.isdigit() and int(found) > FORMAT:
            raise DataDirectoryError(
                self.format_file,
                f"The data directory {self.root} was written by a newer version of ophyd-tandem (its format is "
                f"{found}, this version knows {FORMAT}). Install that version here too, or give another directory; "
                "nothing in it was changed.",
            )

    def journal_of(self, uid: str) -> Path:
        """Path of the journal of a run that is not delivered yet."""
        return self.journals / f"{quote(uid, safe='')}.jsonl"

    def delivery_problem(self, uid: str) -> Path:
        """Path of the note that says why a run cannot be delivered."""
        return self.journals / f"{quote(uid, safe='')}.problem"

    def rewrite_mark(self, uid: str) -> Path:
        """Path of the mark that is there while a run is deleted from the server and written again."""
        return self.journals / f"{quote(uid, safe='')}.rewriting"

    def checksums_to_do(self, uid: str) -> Path:
        """Path of the list of a delivered run's files whose checksums are still to be computed."""
        return self.journals / f"{quote(uid, safe='')}.files"

    def delivered_journal_of(self, uid: str) -> Path | None:
        """Path of the journal of a delivered run, or None."""
        name = f"{quote(uid, safe='')}.jsonl.gz"
        for month in self.delivered_folders():
            if (month / name).exists():
                return month / name
        return None

    def delivered_folders(self) -> list[Path]:
        """Folders of the delivered journals, newest first."""
        try:
            with os.scandir(self.journals) as entries:
                months = [Path(entry.path) for entry in entries if _is_month(entry)]
        except FileNotFoundError:
            return []
        return sorted(months, reverse=True)

    def read_port(self) -> int:
        """Return the port the server had last, or 0."""
        try:
            return int(self.port_file.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    def write_port(self, port: int) -> None:
        """Note the server's port for the next time."""
        draft = self.port_file.with_suffix(".new")
        draft.write_text(f"{port}\n", "ascii")
        draft.replace(self.port_file)

    def read_key(self) -> str:
        """Return the server's key, creating 32 random bytes (as 64 hexadecimal digits) the first time."""
        try:
            return self.key_file.read_text("ascii").strip()
        except FileNotFoundError:
            pass
        draft = self.key_file.with_name(f"key.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        try:
            os.link(draft, self.key_file)  # the first of several wins; all read the same key
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return self.key_file.read_text("ascii").strip()


def _is_month(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return len(name) == 7 and name[4] == "-" and name.replace("-", "").isdigit() and entry.is_dir()


def uid_of_journal(path: Path) -> str:
    """Return the run's uid, which a journal is named by."""
    return unquote(path.name.removesuffix(".gz").removesuffix(".jsonl"))


@dataclass(frozen=True, kw_only=True)
class CatalogState:
    """What the daemon tells about itself and its server."""

    phase: CatalogPhase
    url: str
    """Address of the server, without the key."""
    daemon_pid: int
    server_pid: int | None = None
    problem: str = ""
    """Why the server is not ready, when something is wrong."""
    restarts: int = 0
    """How often the server had to be started again."""

    def write(self, directory: DataDirectory) -> None:
        """Store the state so that a reader sees either the old or the new one; a full disk keeps the old one."""
        draft = directory.state_file.with_suffix(".json.new")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
            draft.replace(directory.state_file)

    @classmethod
    def read(cls, directory: DataDirectory) -> CatalogState | None:
        """Return the stored state, or None when there is none or it is not ours."""
        try:
            stored: dict[str, Any] = json.loads(directory.state_file.read_text("utf-8"))
            return cls(**stored)
        except (FileNotFoundError, ValueError, TypeError):
            return None
