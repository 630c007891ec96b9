"""A data directory that was moved, or restored to another place, is read where it is now.

tiled's database holds the absolute addresses of tables, arrays and files.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from .directory import DataDirectory

logger = logging.getLogger("catalog.server")

_TABLES = "duckdb://localhost/"
_FILES = "file://localhost"


def follow_move(directory: DataDirectory) -> Path | None:
    """Have the database look for what lies in the data directory where it lies now.

    Returns
    -------
    Path or None
        Where the directory was before; None when it has not been moved.
    """
    tables_within = str(directory.tables.relative_to(directory.root))
    with contextlib.closing(sqlite3.connect(directory.database)) as connection, connection:
        # There is one file of tables, and every run has a row in it.
        ours = f"{_TABLES}{directory.tables}"
        found = connection.execute(
            "SELECT DISTINCT data_uri FROM assets WHERE data_uri LIKE ? AND data_uri != ?",
            (f"{_TABLES}%/{tables_within}", ours),
        ).fetchall()
        for (address,) in found:
            before = Path(address.removeprefix(_TABLES).removesuffix(f"/{tables_within}"))
            connection.execute("UPDATE assets SET data_uri = ? WHERE data_uri = ?", (ours, address))
            _follow_files(connection, before, directory)
            logger.warning("The data directory was at %s before; its catalog is adapted", before)
            return before
    return None


def _follow_files(connection: sqlite3.Connection, before: Path, directory: DataDirectory) -> None:
    prefix = f"{_FILES}{before}/"
    files = connection.execute(
        "SELECT id, data_uri FROM assets WHERE substr(data_uri, 1, ?) = ?", (len(prefix), prefix)
    ).fetchall()
    for number, address in files:
        place = directory.root / address.removeprefix(prefix)
        # What a camera wrote there may have stayed when the rest was moved.
        if place.is_relative_to(directory.arrays) or place.exists():
            connection.execute("UPDATE assets SET data_uri = ? WHERE id = ?", (f"{_FILES}{place}", number))
