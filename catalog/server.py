"""The tiled server of one data directory, as a process of the catalog daemon.

``python -m catalog.server <data_dir> <fd>`` serves on the listening socket it inherits as ``fd``, and ends when
its standard input does, that is with the daemon, however that ends. The key comes from the data directory's
key file: never from the command line, never into a log.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import logging
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .directory import DataDirectory
from .indexes import create_indexes, use_indexes
from .locking import FileLock
from .moved import follow_move
from .rewriting import RewriteGate
from .table_connections import connect_each_thread_for_itself, tables_uri

LOCK_PATIENCE_S = 20.0
"""How long a new server waits for the one before it to let go of the databases."""

logger = logging.getLogger("catalog.server")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input ends or SIGTERM comes; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m catalog.server", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("fd", type=int, help="listening socket, inherited")
    options = parser.parse_args(arguments)
    # What is imported stays: to look for garbage in it again and again takes a quarter of the start.
    gc.disable()
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    directory = DataDirectory.at(options.data_dir)
    threading.Thread(target=_end_with_daemon, name="daemon watch", daemon=True).start()

    lock = FileLock(directory.server_lock)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while not lock.acquire():
        if time.monotonic() > deadline:
            print(f"another server still holds {lock.path}", file=sys.stderr)
            return 1
        time.sleep(0.05)

    prepare_database(directory.database)
    follow_move(directory)
    create_indexes(directory.database)
    use_indexes()
    connect_each_thread_for_itself(directory.tables)
    remember_signatures()
    import uvicorn
    from tiled.server.app import build_app_from_config

    app = build_app_from_config(server_configuration(directory))
    server = uvicorn.Server(
        uvicorn.Config(
            RewriteGate(app, directory),
            # The access log would hold the key whenever somebody opens the printed address.
            access_log=False,
            log_level="warning",
            log_config=None,
            timeout_graceful_shutdown=3,
        )
    )
    gc.freeze()
    gc.enable()
    server.run(sockets=[socket.socket(fileno=options.fd)])
    return 0


def remember_signatures() -> None:
    """Have FastAPI work out the signature of a function once.

    Where an application overrides dependencies, as tiled's does, it works out those of all of them anew for each
    request, which is a fifth of what the server does.
    """
    from fastapi.dependencies import utils

    work_out = getattr(utils, "get_typed_signature", None)
    if work_out is not None:
        setattr(utils, "get_typed_signature", functools.cache(work_out))  # noqa: B010 - not for the type checker


def _end_with_daemon() -> None:
    # The daemon holds the other end and never writes: the read returns when the daemon is gone.
    while os.read(0, 1):
        pass
    # At once, so that the next daemon finds the port and the databases free; both databases are made for it.
    os._exit(1)


def server_configuration(directory: DataDirectory) -> dict[str, Any]:
    """Return tiled's configuration for this directory; it holds the key and is never stored."""
    return {
        "catalog": {
            "uri": f"sqlite:///{directory.database}",
            "writable_storage": [str(directory.arrays), tables_uri(directory.tables)],
            # Runs refer to camera files wherever they are; who has the key could read them as a user anyway.
            "readable_storage": ["/"],
        },
        "authentication": {"single_user_api_key": directory.read_key()},
        "media_types": {"BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"}},
        "metrics": {"prometheus": False},
    }


def prepare_database(path: Path) -> None:
    """Create the catalog database, or bring one of an older tiled up to date.

    A new database gets its name when it is complete, so a crash leaves none behind; before an upgrade a copy
    is kept beside it.
    """
    if path.exists():
        _refuse_what_is_no_database(path)
    from tiled.alembic_utils import DatabaseUpgradeNeeded, UnrecognizedDatabase

    if not path.exists():
        draft = path.with_name(path.name + ".new")
        for leftover in (draft, Path(f"{draft}-wal"), Path(f"{draft}-shm")):
            leftover.unlink(missing_ok=True)
        _create_database(draft)
        draft.rename(path)
        return
    try:
        asyncio.run(_check_database(path))
    except DatabaseUpgradeNeeded:
        backup = path.with_name(f"{path.name}.{time.strftime('%Y%m%dT%H%M%S')}.bak")
        with sqlite3.connect(path) as source, sqlite3.connect(backup) as copy:
            source.backup(copy)
        logger.warning("The catalog database is upgraded to tiled %s; a copy is in %s", version("tiled"), backup)
        _upgrade_database(path)
    except UnrecognizedDatabase as error:
        sys.exit(
            f"The catalog database {path} was written by another, probably newer version of tiled than the installed "
            f"{version('tiled')}: {error} Install that version, or move the server folder away and have the runs "
            "delivered again from their journals (tandem catalog replay)."
        )


def _refuse_what_is_no_database(path: Path) -> None:
    """End at once, and not after the seconds that the server's imports take."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        sys.exit(
            f"The catalog database {path} cannot be read: {error}. Restore it from a backup, or move the server folder "
            "away and have the runs delivered again from their journals (tandem catalog replay)."
        )
    finally:
        connection.close()


def _create_database(path: Path) -> None:
    from tiled.alembic_utils import stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import initialize_database

    async def initialize() -> None:
        engine = _engine(path)
        try:
            await initialize_database(engine)
        finally:
            await engine.dispose()

    asyncio.run(initialize())
    stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, _engine_url(path))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def _check_database(path: Path) -> None:
    from tiled.catalog.core import check_catalog_database

    engine = _engine(path)
    try:
        await check_catalog_database(engine)
    finally:
        await engine.dispose()


def _upgrade_database(path: Path) -> None:
    from tiled.alembic_utils import upgrade
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH

    upgrade(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, _engine_url(path), "head")


def _engine(path: Path) -> Any:
    from sqlalchemy.ext.asyncio import create_async_engine

    return create_async_engine(_engine_url(path))


def _engine_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


if __name__ == "__main__":
    sys.exit(main())
