"""Data directories outlive the versions that wrote them: older ones are brought up to date, newer ones refused."""

from __future__ import annotations

import inspect
import sqlite3
import subprocess
import sys
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.dependencies import utils as fastapi_utils
from fastapi.testclient import TestClient
from tiled.alembic_utils import downgrade
from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
from tiled.catalog.core import ALL_REVISIONS

from catalog import DataDirectoryError, Journal, open_catalog
from catalog.directory import FORMAT, DataDirectory
from catalog.server import prepare_database, remember_signatures

pytestmark = pytest.mark.server

OLDER = ALL_REVISIONS[3]
"""The form of an earlier tiled, to which tiled's own migrations can go back."""


@pytest.fixture
def directory(data_dir):
    directory = DataDirectory.at(data_dir)
    directory.create()
    return directory


def revision(database):
    with sqlite3.connect(database) as connection:
        ((found,),) = connection.execute("select version_num from alembic_version").fetchall()
    connection.close()
    return found


def test_the_database_of_an_older_tiled_is_upgraded_and_a_copy_kept(directory):
    database = directory.database
    prepare_database(database)
    with sqlite3.connect(database) as connection:
        connection.execute(
            "insert into nodes (parent, key, structure_family, metadata, specs, time_created, time_updated)"
            " values (0, 'an-old-run', 'container', '{}', '[]', '2025-01-01', '2025-01-01')"
        )
    connection.close()
    downgrade(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, f"sqlite+aiosqlite:///{database}", OLDER)
    assert revision(database) == OLDER
    prepare_database(database)
    assert revision(database) == ALL_REVISIONS[0]
    (backup,) = directory.server.glob("catalog.db.*.bak")
    assert revision(backup) == OLDER
    for each in (database, backup):
        with sqlite3.connect(each) as connection:
            found = connection.execute("select key from nodes where key = 'an-old-run'").fetchall()
        connection.close()
        assert found == [("an-old-run",)]
    prepare_database(database)
    assert len(list(directory.server.glob("catalog.db.*.bak"))) == 1


def test_the_database_of_a_newer_tiled_is_refused_with_what_to_do(directory):
    prepare_database(directory.database)
    with sqlite3.connect(directory.database) as connection:
        connection.execute("update alembic_version set version_num = 'ffffffffffff'")
    connection.close()
    before = directory.database.read_bytes()
    with pytest.raises(SystemExit, match=r"probably newer version of tiled than the installed .*catalog replay"):
        prepare_database(directory.database)
    assert directory.database.read_bytes() == before


def test_a_data_directory_of_a_newer_version_is_refused_and_left_alone(directory, data_dir):
    directory.format_file.write_text(f"{FORMAT + 1}\n")
    before = sorted(path.name for path in data_dir.rglob("*"))
    for use in (Journal, open_catalog):
        with pytest.raises(DataDirectoryError, match=r"newer version of ophyd-tandem .*nothing in it was changed"):
            use(data_dir)
    daemon = subprocess.run(
        [sys.executable, "-P", "-m", "catalog.daemon", data_dir], capture_output=True, text=True, check=False
    )
    assert daemon.returncode == 1
    assert "newer version of ophyd-tandem" in daemon.stderr
    assert sorted(path.name for path in data_dir.rglob("*")) == before


def test_a_data_directory_from_before_formats_were_numbered_is_taken(directory, data_dir):
    directory.format_file.unlink()
    Journal(data_dir).close()
    assert directory.format_file.read_text() == f"{FORMAT}\n"


def setting() -> int:
    return 1


def test_what_a_dependency_of_a_request_takes_is_worked_out_once(monkeypatch):
    calls = []

    def work_out(call):
        calls.append(call)
        return inspect.signature(call, eval_str=True)

    monkeypatch.setattr(fastapi_utils, "get_typed_signature", work_out)
    remember_signatures()
    app = FastAPI()
    app.dependency_overrides[setting] = lambda: 2

    @app.get("/")
    def answer(number: Annotated[int, Depends(setting)]) -> int:
        return number

    with TestClient(app) as client:
        assert [client.get("/").json() for _ in range(3)] == [2, 2, 2]
    assert len(calls) == len(set(calls))
