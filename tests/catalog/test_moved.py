"""A data directory that was moved is read where it is now."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from catalog.directory import DataDirectory
from catalog.moved import follow_move


@pytest.fixture
def moved(tmp_path):
    """A directory whose database was written at another place, and this place."""
    directory = DataDirectory.at(tmp_path / "new place")
    directory.create()
    before = tmp_path / "old_place"
    (directory.root / "images").mkdir()
    (directory.root / "images" / "moved.h5").touch()
    addresses = [
        f"duckdb://localhost/{before}/server/tables.duckdb",
        f"file://localhost{before}/server/arrays/runs/1/primary/wave",
        f"file://localhost{before}/images/moved.h5",
        f"file://localhost{before}/images/stayed.h5",
        f"file://localhost{before}2/server/arrays/runs/1/primary/wave",
        "file://localhost/elsewhere/camera.h5",
    ]
    with closing(sqlite3.connect(directory.database)) as connection, connection:
        connection.execute("CREATE TABLE assets (id INTEGER PRIMARY KEY, data_uri VARCHAR)")
        connection.executemany("INSERT INTO assets (data_uri) VALUES (?)", [(address,) for address in addresses])
    return directory, before, addresses


def addresses_in(directory):
    with closing(sqlite3.connect(directory.database)) as connection:
        return [address for (address,) in connection.execute("SELECT data_uri FROM assets ORDER BY id")]


def test_what_lies_in_the_directory_is_looked_for_at_its_new_place(moved):
    directory, before, addresses = moved
    assert follow_move(directory) == before
    now = [
        f"duckdb://localhost/{directory.root}/server/tables.duckdb",
        f"file://localhost{directory.root}/server/arrays/runs/1/primary/wave",
        f"file://localhost{directory.root}/images/moved.h5",
        *addresses[3:],
    ]
    assert addresses_in(directory) == now
    assert follow_move(directory) is None
    assert addresses_in(directory) == now
