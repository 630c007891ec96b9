"""Tabular data that is read by many while it is written loses no row, and no reader."""

from __future__ import annotations

import threading
from contextlib import closing

import pyarrow
from tiled.storage import parse_storage

from catalog.table_connections import connect_each_thread_for_itself, tables_uri

APPENDS = 150
ROWS = 10


def test_threads_that_read_and_write_the_tables_do_not_disturb_each_other(tmp_path):
    tables = tmp_path / "tables.duckdb"
    connect_each_thread_for_itself(tables)
    storage = parse_storage(tables_uri(tables))  # as the server finds it
    with closing(storage.connect()) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE rows (x DOUBLE)")
        connection.commit()
    written = 0
    done = threading.Event()
    failures = []

    def read():
        try:
            while not done.is_set():
                expected = written
                with closing(storage.connect()) as connection:
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT x FROM rows")
                        found = cursor.fetch_arrow_table().num_rows
                    connection.commit()
                assert found >= expected
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, APPENDS + 1):
            with closing(storage.connect()) as connection:
                with connection.cursor() as cursor:
                    cursor.adbc_ingest("rows", pyarrow.table({"x": [float(number)] * ROWS}), mode="append")
                connection.commit()
            written = number * ROWS
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert failures == []
    with closing(storage.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM rows")
        assert cursor.fetchone() == (APPENDS * ROWS,)
    storage.dispose()
