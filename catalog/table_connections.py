"""Each request to the tabular data of a catalog has a connection of its own.

tiled gives all threads of its server one connection to a DuckDB file. Whoever has read then rolls back what another
thread is just writing, readers get errors or another's rows, and under load the process dies of it. DuckDB itself takes
any number of connections within one process.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

SPARE_CONNECTIONS = 5
MOST_CONNECTIONS = 100
"""More than the threads that a server works in."""


def tables_uri(tables: Path) -> str:
    """Return the address by which tiled knows a file of tabular data."""
    return f"duckdb:///{tables}"


def connect_each_thread_for_itself(tables: Path) -> None:
    """Give the requests of this process that are under way at the same time connections of their own.

    To be called before the server is built, which finds the storage by its address; the file is opened when it is first
    used.
    """
    from sqlalchemy.pool import QueuePool
    from tiled.storage import parse_storage

    storage: Any = parse_storage(tables_uri(tables))
    opening = threading.Lock()

    def connection() -> Any:
        with opening:  # the first opens the file, which only one may do
            return storage._adbc_connection.adbc_clone()

    pool = QueuePool(connection, pool_size=SPARE_CONNECTIONS, max_overflow=MOST_CONNECTIONS - SPARE_CONNECTIONS)
    vars(storage)["_connection_pool"] = pool  # where tiled keeps its own, once it has made it
