"""The past at length: many runs are found in time, and a compacted catalog is the catalog it was."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import SynSignal

from benchmarks.history import measured, seeded_directory, served
from catalog import CatalogSession, maintenance, shut_down
from catalog.compact import compact
from catalog.launch import leave_daemon

pytestmark = [pytest.mark.soak, pytest.mark.server, pytest.mark.timeout(1800)]

MARGIN = 4.0
"""Other programs may use the machine; the goals are for a quiet one."""


@pytest.mark.parametrize(("runs", "goal_s"), [(10_000, 0.2), (100_000, 1.0)])
def test_past_runs_are_found_in_time(tmp_path: Path, runs: int, goal_s: float) -> None:
    with served(seeded_directory(tmp_path, runs)) as catalog:
        results = measured(catalog, runs)
    late = {name: each for name, each in results.items() if each["best_s"] > MARGIN * goal_s}
    assert not late
    assert all(each["found"] for name, each in results.items() if name != "by a key, nothing found")


def test_a_compacted_catalog_is_the_catalog_it_was(tmp_path: Path) -> None:
    root = tmp_path / "data"
    session = CatalogSession(root)
    session.catalog(wait=120.0)
    engine = RunEngine({})
    engine.subscribe(session.journal)
    signal = SynSignal(name="det", func=lambda: 1.0)
    uids = [uid for _ in range(20) for uid in engine(count([signal], 50))]
    for uid in uids:
        session.wait_delivered(uid, timeout=120.0)
    for uid in uids[::2]:
        session.catalog().delete_contents(uid, recursive=True, external_only=False)
    session.close(wait_delivered=120.0)
    with sqlite3.connect(session.directory.database) as connection:
        connection.execute("CREATE TABLE filler AS SELECT zeroblob(2000000) AS filling")
        connection.execute("DROP TABLE filler")
    connection.close()
    done = compact(root)
    assert done.left == {}
    assert done.freed["catalog.db"] > 1_000_000
    with CatalogSession(root) as again:
        again.catalog(wait=120.0)
        assert [differences for _, differences in maintenance.verify(root, uids[1::2])] == [[]] * 10
        assert maintenance.replay(root, uids[::2]) == uids[::2]
        for uid in uids:
            again.wait_delivered(uid, timeout=120.0)
        assert [differences for _, differences in maintenance.verify(root, uids)] == [[]] * 20
        leave_daemon(root)
    shut_down(root, timeout=120.0)
    moved = root.rename(tmp_path / "moved here")
    assert [differences for _, differences in maintenance.verify(moved, uids)] == [[]] * 20
    shut_down(moved, timeout=120.0)
    shutil.rmtree(moved, ignore_errors=True)
