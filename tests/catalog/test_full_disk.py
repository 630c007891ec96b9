"""A disk that is really full pauses the scan; when there is room again nothing is missing and nothing is twice."""

from __future__ import annotations

import errno
import threading

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngineInterrupted
from bluesky.plans import count
from catalog_helpers import fill_disk, small_disk
from ophyd.sim import SynSignal

from catalog import DiskFull, Journal, original_documents
from catalog.encoding import encode
from catalog.locking import is_locked
from catalog.reserve import RESERVE_BYTES


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
        yield disk


@pytest.fixture
def large_disk(tmp_path):
    with small_disk(tmp_path / "disk", 40) as disk:
        yield disk


def test_the_scan_pauses_and_goes_on_when_there_is_room(RE, disk):
    readings = iter(range(1000))
    ballast = []

    def read():
        number = next(readings)
        if number == 20:
            ballast.append(fill_disk(disk))
        return number

    det = SynSignal(name="det", func=read)
    emitted, told = [], []
    pause = lambda: RE.request_pause(defer=False)  # noqa: E731
    with Journal(disk / "data", pause=pause, on_trouble=told.append) as journal:
        RE.subscribe(journal)
        RE.subscribe(lambda name, document: emitted.append((name, document)))
        with pytest.raises(RunEngineInterrupted):
            RE(count([det], 50, delay=0.005))
        assert RE.state == "paused"
        assert [type(error) for error in told] == [DiskFull]
        assert f"No space is left on the disk of {disk}" in str(told[0])
        assert len(emitted) < 60
        ballast[0].unlink()
        RE.resume()
        uid = emitted[0][1]["uid"]
        assert original_documents(disk / "data", uid) == emitted
        assert emitted[-1][1]["exit_status"] == "success"


@pytest.mark.parametrize(("side", "points"), [(0, 20), (512, 3)])
def test_a_scan_that_is_aborted_on_a_full_disk_is_recorded_to_its_end(RE, large_disk, side, points):
    """Also when one event alone is larger than what is set aside for small ones."""
    disk = large_disk
    emitted = []
    with Journal(disk / "data", pause=lambda: RE.request_pause(defer=False)) as journal:
        RE.subscribe(journal)
        RE.subscribe(lambda name, document: emitted.append((name, document)))
        readings = iter(range(1000))
        det = SynSignal(name="det", func=lambda: np.full((side, side), next(readings)) if side else next(readings))

        def plan():
            yield from bpp.run_wrapper(measure())

        def measure():
            for number in range(50):
                if number == points:
                    fill_disk(disk)
                yield from bps.trigger_and_read([det])
                yield from bps.checkpoint()

        with pytest.raises(RunEngineInterrupted):
            RE(plan())
        assert points < sum(name == "event" for name, _ in emitted) < 50
        RE.abort("the disk is full")
        assert emitted[-1][1]["exit_status"] == "abort"
        recorded = original_documents(disk / "data", emitted[0][1]["uid"])
        assert [encode(*each) for each in recorded] == [encode(*each) for each in emitted]
        with pytest.raises(DiskFull):
            RE(plan())  # there is no room left for the end of another run
        assert RE.state == "idle"
    assert [path.suffix for path in (disk / "data" / "journal").iterdir()] == [".jsonl"]


def test_what_waits_for_room_is_recorded_when_the_session_ends(disk):
    with Journal(disk / "data", pause=lambda: None) as journal:
        journal("start", {"uid": "5a9d", "time": 1.0})
        (reserve,) = (disk / "data" / "journal").glob("reserve-*")
        assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
        assert is_locked(reserve)
        fill_disk(disk)
        for number in range(5):
            about = {"uid": f"d{number}", "run_start": "5a9d", "time": 1.0, "name": "x" * 2000}
            journal("descriptor", {**about, "data_keys": {}})
    assert [name for name, _ in original_documents(disk / "data", "5a9d")] == ["start", *["descriptor"] * 5]
    assert not reserve.exists()


def test_a_file_system_that_sets_no_room_aside_is_filled_with_zeros(data_dir, monkeypatch):
    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("catalog.reserve.os.posix_fallocate", unknown)
    with Journal(data_dir) as journal:
        journal("start", {"uid": "5a9d", "time": 1.0})
        (reserve,) = (data_dir / "journal").glob("reserve-*")
        assert reserve.stat().st_size == RESERVE_BYTES


def test_a_disk_without_room_for_what_is_at_hand_counts_as_full(disk):
    told, paused = [], threading.Event()
    event = {"uid": "e", "descriptor": "d", "seq_num": 1, "time": 1.0, "data": {"x": "x" * 600_000}, "timestamps": {}}
    with Journal(disk / "data", pause=paused.set, on_trouble=told.append) as journal:
        journal("start", {"uid": "5a9d", "time": 1.0})
        journal("descriptor", {"uid": "d", "run_start": "5a9d", "time": 1.0, "name": "primary", "data_keys": {}})
        journal("event", event)  # fits, and four of its kind would not
        assert paused.wait(10.0)
        assert [type(error) for error in told] == [DiskFull]
        journal("stop", {"uid": "s", "run_start": "5a9d", "time": 1.0})
    assert [name for name, _ in original_documents(disk / "data", "5a9d")] == ["start", "descriptor", "event", "stop"]


def test_a_scan_does_not_begin_on_a_full_disk(RE, disk):
    measured = []
    det = SynSignal(name="det", func=lambda: measured.append(1) or 1.0)
    with Journal(disk / "data", pause=lambda: RE.request_pause(defer=False)) as journal:
        RE.subscribe(journal)
        measured.clear()
        ballast = fill_disk(disk)
        with pytest.raises(DiskFull, match=r"No space is left .* Free some space"):
            RE(count([det], 3))
        assert measured == []
        assert RE.state == "idle"
        ballast.unlink()
        (uid,) = RE(count([det], 3))
        assert [name for name, _ in original_documents(disk / "data", uid)][-1] == "stop"
