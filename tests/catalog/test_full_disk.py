"""A disk that is really full pauses the scan; when there is room again nothing is missing and nothing is twice."""

from __future__ import annotations

import pytest
from bluesky import RunEngineInterrupted
from bluesky.plans import count
from catalog_helpers import fill_disk, small_disk
from ophyd.sim import SynSignal

from catalog import DiskFull, Journal, original_documents


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
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
