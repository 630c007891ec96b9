"""Give back the space that a catalog no longer needs, without touching the record.

Journals stay as they are: each is one compressed file that any tool reads, and the only exact record. What is
freed are leftovers of processes that were killed, arrays of runs that were deleted, and the room in databases that
deleted rows have left. All of it can be done while sessions measure; what only a stopped server allows is left and
said to be.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .directory import RUNS_KEY, DataDirectory
from .errors import CatalogError
from .external import ExternalServer
from .journal import read_journal, sync_folder
from .locking import FileLock, is_locked

DRAFT_PATIENCE_S = 300.0
"""Drafts younger than this may still be written."""

_DRAFTS = ("journal/*.jsonl.new", "journal/*/*.jsonl.gz.new", "server/key.*.*", "server/*.new", "server.json.new")


@dataclass
class Compaction:
    """What compacting has freed.

    Attributes
    ----------
    freed : dict of int
        Bytes by what they were.
    removed : int
        Files and folders removed.
    left : dict of str
        What could not be done now, with the reason.
    """

    freed: dict[str, int] = field(default_factory=dict)
    removed: int = 0
    left: dict[str, str] = field(default_factory=dict)

    @property
    def freed_bytes(self) -> int:
        """Bytes freed in all."""
        return sum(self.freed.values())


def compact(data_dir: str | os.PathLike[str]) -> Compaction:
    """Remove what killed processes left, and shrink the server's databases when it does not run.

    Safe at any time, as often as one likes; a session that begins meanwhile waits for its server a little longer.

    Parameters
    ----------
    data_dir : path
        The data directory.

    Raises
    ------
    NoCatalog
        No session has ever recorded there.
    CatalogError
        A database could not be copied whole; it was left as it was.
    """
    directory = DataDirectory.existing(data_dir)
    done = Compaction()
    _remove_drafts(directory, done)
    _remove_plain_twins(directory, done)
    if ExternalServer.read(directory) is not None and not directory.database.exists():
        return done
    lock = FileLock(directory.server_lock)
    if not lock.acquire():
        done.left["databases and arrays"] = "the server runs; stop it with `tandem catalog stop` and compact again"
        return done
    try:
        if directory.database.exists():
            with _counted(done, "catalog.db", directory.database):
                _vacuum(directory.database)
            _remove_orphaned_arrays(directory, done)
        if directory.tables.exists():
            with _counted(done, "tables.duckdb", directory.tables):
                _rewrite_tables(directory.tables)
    finally:
        lock.release()
    return done


def _remove_drafts(directory: DataDirectory, done: Compaction) -> None:
    for pattern in _DRAFTS:
        for path in directory.root.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > DRAFT_PATIENCE_S and not is_locked(path):
                    _note(done, "drafts of killed processes", path.stat().st_size)
                    path.unlink()


def _remove_plain_twins(directory: DataDirectory, done: Compaction) -> None:
    """Remove journals whose compressed form is there and says the same; a crash came between the two."""
    for path in directory.journals.glob("*.jsonl"):
        packed = [month / f"{path.name}.gz" for month in directory.delivered_folders()]
        twins = [twin for twin in packed if twin.exists()]
        if twins and not is_locked(path) and _same(path, twins[0]):
            _note(done, "journals kept twice", path.stat().st_size)
            path.unlink()


def _same(plain: Path, packed: Path) -> bool:
    try:
        pairs = zip(read_journal(plain), read_journal(packed), strict=True)
        return all(repr(one) == repr(other) for one, other in pairs)
    except (CatalogError, ValueError):
        return False


def _remove_orphaned_arrays(directory: DataDirectory, done: Compaction) -> None:
    """Remove arrays of runs that the database does not know: their delivery was interrupted or they were deleted."""
    runs = directory.arrays / RUNS_KEY
    if not runs.is_dir():
        return
    with contextlib.closing(sqlite3.connect(f"file:{directory.database}?mode=ro", uri=True)) as connection:
        query = (
            "SELECT run.key FROM nodes run JOIN nodes parent ON run.parent = parent.id "
            "WHERE parent.key = ? AND parent.parent = 0"
        )
        known = {key for (key,) in connection.execute(query, (RUNS_KEY,))}
    for folder in runs.iterdir():
        # Journals are the record: an array that no journal backs is not touched.
        if folder.name in known or not folder.is_dir() or not _has_journal(directory, folder.name):
            continue
        _note(done, "arrays of runs that are not in the catalog", _size(folder))
        shutil.rmtree(folder)


def _has_journal(directory: DataDirectory, uid: str) -> bool:
    return directory.journal_of(uid).exists() or directory.delivered_journal_of(uid) is not None


def _vacuum(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        if not _is_whole(connection):
            raise CatalogError(
                f"{database} is damaged and was left as it is. Stop the catalog, move the server folder away and "
                "replay the journals."
            )
        connection.execute("INSERT INTO metadata_fts5(metadata_fts5) VALUES('optimize')")
        connection.execute("VACUUM")
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _is_whole(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("PRAGMA quick_check").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False


def _rewrite_tables(tables: Path) -> None:
    """Copy the tables into a new file, which takes the place of the old one when it holds as many rows."""
    import duckdb

    draft = tables.with_name(tables.name + ".new")
    draft.unlink(missing_ok=True)
    try:
        with duckdb.connect() as connection:
            connection.execute(f"ATTACH '{_quoted(tables)}' AS old")
            connection.execute(f"ATTACH '{_quoted(draft)}' AS fresh")
            connection.execute("CHECKPOINT old")
            connection.execute("COPY FROM DATABASE old TO fresh")
            counts = [_row_counts(connection, name) for name in ("old", "fresh")]
            connection.execute("CHECKPOINT fresh")
        if counts[0] != counts[1]:
            raise CatalogError(f"{tables} could not be copied whole; it was left as it is.")
        draft.replace(tables)
        sync_folder(tables.parent)
    except duckdb.Error as error:
        raise CatalogError(f"{tables} could not be compacted and was left as it is: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _row_counts(connection: object, database: str) -> dict[str, int]:
    execute = connection.execute  # type: ignore[attr-defined]
    query = "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ?"
    names = execute(query, [database]).fetchall()
    return {
        f"{schema}.{table}": execute(f'SELECT count(*) FROM {database}."{schema}"."{table}"').fetchone()[0]
        for schema, table in names
    }


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


@contextlib.contextmanager
def _counted(done: Compaction, what: str, path: Path) -> Iterator[None]:
    family = (path, path.with_name(path.name + "-wal"), path.with_name(path.name + ".wal"))
    before = sum(each.stat().st_size for each in family if each.exists())
    yield
    after = sum(each.stat().st_size for each in family if each.exists())
    if before > after:
        done.freed[what] = done.freed.get(what, 0) + before - after


def _note(done: Compaction, what: str, size: int) -> None:
    done.freed[what] = done.freed.get(what, 0) + size
    done.removed += 1


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
