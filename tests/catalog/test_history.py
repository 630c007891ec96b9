"""Every question about the past has the same answer from indexes as from reading every run."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from bluesky_tiled_plugins.queries import TimeRange
from tiled.queries import FullText, Key

from benchmarks.history import NEWEST_S, SECRET, SPACING_S, _all_documents, seed_database
from catalog import CatalogSession, UnknownRun, search_runs
from catalog.directory import DataDirectory
from catalog.indexes import INDEXED_KEYS, create_indexes
from catalog.server import prepare_database

pytestmark = pytest.mark.server

RUNS = 200


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A catalog of runs seeded in bulk, and their metadata by uid in the order of time."""
    directory = DataDirectory.at(tmp_path_factory.mktemp("history") / "data")
    directory.create()
    prepare_database(directory.database)
    asyncio.run(seed_database(f"sqlite+aiosqlite:///{directory.database}", RUNS))
    session = CatalogSession(directory.root)
    try:
        yield session.catalog(wait=120.0), {uid: metadata for uid, metadata, _ in _all_documents(RUNS, RUNS)}
    finally:
        session.close(wait_delivered=30.0)


def matching(runs, condition):
    return [uid for uid, metadata in runs.items() if condition(metadata["start"], metadata["stop"], metadata)]


QUESTIONS = {
    "plan": ({"plan": "scan"}, lambda start, stop, all_: start["plan_name"] == "scan"),
    "sample": ({"sample": "S-042"}, lambda start, stop, all_: start["sample"] == "S-042"),
    "several": (
        {"plan": "scan", "operator": "ada", "exit_status": "success"},
        lambda start, stop, all_: (
            (start["plan_name"], start["operator"], stop["exit_status"]) == ("scan", "ada", "success")
        ),
    ),
    "failed": ({"exit_status": "fail"}, lambda start, stop, all_: stop["exit_status"] == "fail"),
    "proposal": ({"proposal": "P0007"}, lambda start, stop, all_: start["proposal"] == "P0007"),
    "number": ({"num_points": 50}, lambda start, stop, all_: start["num_points"] == 50),
    "nested": (
        {"configuration.name": "bench", "plan_args.num": 60},
        lambda start, stop, all_: start["plan_args"]["num"] == 60,
    ),
    "device": (
        {"device": "power_v4", "plan": "count"},
        lambda start, stop, all_: start["plan_name"] == "count",  # each names all instruments of the session
    ),
    "detector": ({"detector": "power_v4"}, lambda start, stop, all_: "power_v4" in start["detectors"]),
    "part of a name": ({"detector": "power"}, lambda start, stop, all_: False),
    "text": ({"text": "gadolinium film"}, lambda start, stop, all_: start["purpose"].startswith("gadolinium")),
    "tag": ({"tags": "paper"}, lambda start, stop, all_: "annotations" in all_),
    "note": ({"note": "a second l"}, lambda start, stop, all_: "annotations" in all_),
    "nothing": ({"sample": "none", "plan": "scan"}, lambda start, stop, all_: False),
    "quotes": ({"sample": 'S-"042'}, lambda start, stop, all_: False),
    "no words": ({"purpose": "--"}, lambda start, stop, all_: False),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_are_those_of_reading_every_run(history, name):
    catalog, runs = history
    words, condition = QUESTIONS[name]
    assert list(search_runs(catalog, **words)) == matching(runs, condition)


def test_every_handle_finds_its_run(history):
    catalog, runs = history
    uids = list(runs)
    assert [run.metadata["start"]["uid"] for run in catalog.values().tail(20)] == uids[-20:]
    assert catalog[-1].metadata["start"]["uid"] == uids[-1]
    assert catalog[123].metadata["start"]["uid"] == uids[122]
    assert catalog[uids[77]].metadata["start"]["uid"] == uids[77]
    assert catalog[uids[77][:9]].metadata["start"]["uid"] == uids[77]
    begin = NEWEST_S - 50 * SPACING_S
    assert list(catalog.search(TimeRange(since=begin, until=begin + 10 * SPACING_S))) == uids[150:160]
    assert list(catalog.search(since=begin, until=begin + 9.5 * SPACING_S)) == uids[150:160]
    assert list(catalog.search(Key("campaign") == "campaign 0")) == uids
    assert list(catalog.search(Key("scan_id") == 5)) == [uids[4]]
    assert list(catalog.search(FullText(SECRET))) == matching(runs, lambda s, *_: SECRET in s["purpose"])
    assert len(catalog.search(Key("plan_name") == "malus")) == len(
        matching(runs, lambda s, *_: s["plan_name"] == "malus")
    )


def test_an_ambiguous_uid_is_told_with_the_runs_it_may_mean(history):
    catalog, runs = history
    letter = next(c for c in "0123456789abcdef" if sum(uid.startswith(c) for uid in runs) > 1)
    with pytest.raises(UnknownRun, match=rf"'{letter}' is the beginning of .* runs .*Give more characters") as caught:
        catalog[letter]
    assert len(caught.value.matches) > 1
    assert all(uid.startswith(letter) and uid in runs for uid in caught.value.matches)


@pytest.mark.parametrize("which", ["zzzz", "", "100%", 4711, -1000])
def test_a_run_that_is_not_there_is_told(history, which):
    catalog, _ = history
    with pytest.raises(UnknownRun, match="There is no run"):
        catalog[which]


def test_the_database_uses_the_indexes(tmp_path: Path):
    database = tmp_path / "catalog.db"
    prepare_database(database)
    create_indexes(database)
    create_indexes(database)  # again at each start
    connection = sqlite3.connect(database)
    for key in INDEXED_KEYS:
        path = ".".join(f'"{part}"' for part in key.split("."))
        query = f"SELECT id FROM nodes WHERE parent = 1 AND JSON_EXTRACT(nodes.metadata, '$.{path}') = 1 ORDER BY id"
        ((*_, plan),) = connection.execute(f"EXPLAIN QUERY PLAN {query}")
        assert f"ix_tandem_{key.replace('.', '_')}" in plan
    connection.close()
