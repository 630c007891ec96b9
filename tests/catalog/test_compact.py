"""Compacting gives back space and never touches the record; what it must not touch is left and told."""

from __future__ import annotations

import os
import sqlite3
import time

import duckdb
import pytest

from catalog import CatalogError, NoCatalog, original_documents
from catalog.compact import compact
from catalog.directory import DataDirectory
from catalog.journal import Journal
from catalog.locking import FileLock
from catalog.server import prepare_database


def make_old(path, content=b"left over"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


@pytest.fixture
def directory(data_dir):
    place = DataDirectory.at(data_dir)
    with Journal(data_dir) as journal:
        journal("start", {"uid": "first", "time": 1.0})
        journal("stop", {"uid": "x", "run_start": "first", "time": 2.0, "exit_status": "success"})
    return place


def test_drafts_of_killed_processes_go_and_all_else_stays(directory):
    drafts = [
        make_old(directory.journals / "a.jsonl.new"),
        make_old(directory.journals / "2026-01" / "b.jsonl.gz.new"),
        make_old(directory.server / "key.123.abcd"),
    ]
    young = directory.journals / "young.jsonl.new"
    young.write_text("being written")
    foreign = [make_old(directory.root / "mine.new"), make_old(directory.journals / "notes.txt")]
    held = make_old(directory.journals / "held.jsonl.new")
    lock = FileLock(held)
    lock.acquire()
    done = compact(directory.root)
    lock.release()
    assert done.freed == {"drafts of killed processes": 27}
    assert done.removed == 3
    assert not any(path.exists() for path in drafts)
    assert all(path.exists() for path in (young, held, *foreign))
    assert len(original_documents(directory.root, "first")) == 2


def test_a_journal_kept_twice_goes_only_when_both_say_the_same(directory):
    import gzip

    plain = directory.journal_of("first")
    month = directory.journals / "2026-01"
    month.mkdir()
    packed = month / f"{plain.name}.gz"
    packed.write_bytes(gzip.compress(b'{"name":"start","doc":{"uid":"first","time":1.0}}\n'))
    assert compact(directory.root).removed == 0
    assert plain.exists()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert compact(directory.root).removed == 1
    assert not plain.exists()
    assert len(original_documents(directory.root, "first")) == 2


def test_a_place_without_a_catalog_is_named(tmp_path):
    with pytest.raises(NoCatalog, match="There is no catalog in"):
        compact(tmp_path / "nothing")


def test_the_databases_shrink_when_no_server_runs(directory):
    prepare_database(directory.database)
    with sqlite3.connect(directory.database) as connection:
        connection.execute("CREATE TABLE filler AS SELECT zeroblob(200000) AS filling")
        connection.execute("DROP TABLE filler")
    connection.close()
    with duckdb.connect(str(directory.tables)) as tables:
        tables.execute("CREATE TABLE kept AS SELECT range AS number, 'text' AS label FROM range(1000)")
        tables.execute("CREATE TABLE gone AS SELECT random() AS number FROM range(150000)")
        tables.execute("CHECKPOINT")
        tables.execute("DROP TABLE gone")
        tables.execute("CHECKPOINT")
    orphan = make_old(directory.arrays / "runs" / "first" / "primary" / "chunk", b"x" * 1000).parent.parent
    unknown = make_old(directory.arrays / "runs" / "nobody's" / "chunk").parent
    done = compact(directory.root)
    assert done.left == {}
    assert done.freed["catalog.db"] > 100_000
    assert done.freed["tables.duckdb"] > 500_000
    assert done.freed["arrays of runs that are not in the catalog"] == 1000
    assert done.freed_bytes == sum(done.freed.values())
    assert not orphan.exists()  # its journal is there
    assert unknown.exists()  # no journal backs it
    with duckdb.connect(str(directory.tables)) as tables:
        assert tables.execute("SELECT count(*), sum(number) FROM kept").fetchone() == (1000, 499500)
    again = compact(directory.root)
    assert (again.freed_bytes, again.removed) == (0, 0)


def test_a_damaged_database_is_left_as_it_is(directory):
    prepare_database(directory.database)
    content = bytearray(directory.database.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    directory.database.write_bytes(content)
    with pytest.raises(CatalogError, match=r"is damaged and was left as it is. Stop the catalog"):
        compact(directory.root)
    assert directory.database.read_bytes() == content


@pytest.mark.server
def test_while_the_server_runs_its_databases_are_left(served):
    assert "the server runs; stop it" in compact(served.directory.root).left["databases and arrays"]
