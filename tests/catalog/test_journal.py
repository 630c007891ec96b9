"""The journal loses nothing that was emitted, says when it cannot record, and costs a scan next to nothing."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from bluesky.plans import count, scan
from catalog_helpers import wait_until
from ophyd.sim import SynAxis, SynGauss, SynSignal

from catalog import (
    DataDirectoryError,
    DiskFull,
    Journal,
    JournalCorrupt,
    JournalError,
    JournalWriteError,
    UnknownRun,
    annotate,
    annotations_of,
    find_journal,
    maintenance,
    open_catalog,
    original_documents,
    read_journal,
    shut_down,
)
from catalog import journal as journal_module
from catalog.compact import compact
from catalog.directory import DataDirectory, uid_of_journal
from catalog.journal import JournalTail, compress_journal, recorded_runs
from catalog.locking import is_locked


@pytest.fixture
def journal(data_dir):
    with Journal(data_dir) as journal:
        yield journal


@pytest.fixture
def devices():
    motor = SynAxis(name="motor")
    return motor, SynGauss("det", motor, "motor", center=0, Imax=1)


def start(uid="a" * 8, **metadata):
    return {"uid": uid, "time": 1.0, **metadata}


def descriptor(uid="d", run="a" * 8):
    return {"uid": uid, "run_start": run, "time": 1.0, "name": "primary", "data_keys": {}}


def event(seq_num, of="d", **data):
    return {"uid": f"e{seq_num}", "descriptor": of, "seq_num": seq_num, "time": 1.0, "data": data, "timestamps": {}}


def stop(run="a" * 8):
    return {"uid": "s", "run_start": run, "time": 2.0, "exit_status": "success"}


def test_every_document_of_a_scan_is_read_back_as_emitted(RE, journal, data_dir, devices):
    motor, det = devices
    emitted = []
    RE.subscribe(journal)
    RE.subscribe(lambda name, doc: emitted.append((name, doc)))
    (uid,) = RE(scan([det], motor, -1, 1, 5), thickness=np.float32(0.1), tags=("a", "b"))
    assert original_documents(data_dir, uid) == emitted
    assert original_documents(data_dir, uid[:8]) == emitted
    assert journal.open_runs == []


def test_a_document_is_with_the_system_before_the_call_returns(journal, data_dir):
    journal("start", start())
    path = find_journal(data_dir, "a" * 8)
    journal("descriptor", descriptor())
    journal("event", event(1, x=1.5))
    assert [name for name, _ in read_journal(path)] == ["start", "descriptor", "event"]


def test_an_open_run_is_locked_and_a_closed_one_is_not(journal, data_dir):
    journal("start", start())
    path = find_journal(data_dir, "a" * 8)
    assert is_locked(path)
    journal("stop", stop())
    assert not is_locked(path)


def test_a_forked_child_does_not_keep_the_run_alive(data_dir):
    journal = Journal(data_dir)
    journal("start", start())
    path = find_journal(data_dir, "a" * 8)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        journal.close()
        wait_until(lambda: not is_locked(path), "the child to let go", 5.0)
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


def test_interleaved_runs_lie_in_files_of_their_own(journal, data_dir):
    for run in ("first---", "second--"):
        journal("start", start(run))
        journal("descriptor", descriptor(f"d-{run}", run))
        journal("stream_resource", {"uid": f"r-{run}", "run_start": run})
    for number in (1, 2):
        for run in ("first---", "second--"):
            journal("event", event(number, of=f"d-{run}"))
            journal("stream_datum", {"uid": "x", "descriptor": f"d-{run}", "stream_resource": f"r-{run}"})
    journal("resource", {"uid": "r", "run_start": "first---"})
    journal("datum", {"datum_id": "r/0", "resource": "r"})
    journal("stop", stop("second--"))
    names = [name for name, _ in original_documents(data_dir, "first---")]
    assert names.count("event") == 2
    assert names[-2:] == ["resource", "datum"]
    assert [name for name, _ in original_documents(data_dir, "second--")][-1] == "stop"
    assert journal.open_runs == ["first---"]


def test_a_resource_without_its_run_belongs_to_the_only_open_one(journal, data_dir):
    journal("start", start())
    journal("resource", {"uid": "r"})
    assert [name for name, _ in original_documents(data_dir, "a" * 8)] == ["start", "resource"]


def test_a_document_of_an_unknown_run_is_refused(journal):
    with pytest.raises(JournalError, match="Subscribe the journal before the run is opened"):
        journal("event", event(1))


def test_the_same_uid_is_not_recorded_twice(journal):
    journal("start", start())
    journal("stop", stop())
    with pytest.raises(JournalError, match="already recorded"):
        journal("start", start())


def test_a_uid_with_path_separators_stays_inside_the_journal_folder(journal, data_dir):
    journal("start", start("../../outside"))
    assert find_journal(data_dir, "../../outside").parent == data_dir / "journal"


def test_a_torn_last_line_is_passed_over(journal, data_dir):
    journal("start", start())
    journal("stop", stop())
    path = find_journal(data_dir, "a" * 8)
    with open(path, "ab") as file:
        file.write(b'{"name": "event", "doc": {"uid"')
    assert [name for name, _ in read_journal(path)] == ["start", "stop"]


def test_a_damaged_line_is_reported_with_file_and_line(journal, data_dir):
    journal("start", start())
    journal("stop", stop())
    path = find_journal(data_dir, "a" * 8)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + lines[1])
    with pytest.raises(JournalCorrupt) as caught:
        list(read_journal(path))
    assert caught.value.line == 2
    assert str(caught.value).startswith(f"{path}:2: damaged journal line")
    with pytest.raises(JournalCorrupt):
        JournalTail(path).read()


def test_a_damaged_compressed_journal_is_reported(journal, data_dir):
    journal("start", start())
    journal("stop", stop())
    packed = compress_journal(DataDirectory.at(data_dir), find_journal(data_dir, "a" * 8))
    whole = packed.read_bytes()
    for damaged in (whole[:-12], b"no gzip", whole[:10] + b"\xff" * 8 + whole[18:]):
        packed.write_bytes(damaged)
        with pytest.raises(JournalCorrupt):
            list(read_journal(packed))


def test_a_compressed_journal_reads_the_same_and_is_found(journal, data_dir):
    journal("start", start())
    journal("stop", stop())
    before = original_documents(data_dir, "a" * 8)
    plain = find_journal(data_dir, "a" * 8)
    packed = compress_journal(DataDirectory.at(data_dir), plain)
    assert not plain.exists()
    assert find_journal(data_dir, "a" * 8) == packed
    assert original_documents(data_dir, "aaaa") == before
    assert gzip.decompress(packed.read_bytes()).count(b"\n") == 2


def test_each_run_is_listed_once_whatever_its_journal_becomes_meanwhile(journal, data_dir, monkeypatch):
    directory = DataDirectory.at(data_dir)
    for run in ("a" * 8, "b" * 8, "c" * 8):
        journal("start", start(run))
        journal("stop", stop(run))
    os.utime(find_journal(data_dir, "c" * 8), (2e9, 2e9))
    os.utime(find_journal(data_dir, "b" * 8), (1e9, 1e9))
    month = compress_journal(directory, find_journal(data_dir, "a" * 8)).parent
    (month / f"{'b' * 8}.jsonl.gz.new").write_bytes(b"\x1f\x8b")
    (directory.journals / f"{'a' * 8}.jsonl.replayed").write_bytes(b"")
    assert recorded_runs(data_dir) == ["c" * 8, "a" * 8, "b" * 8]
    assert recorded_runs(data_dir, since=1.5e9) == ["c" * 8, "a" * 8]

    look = journal_module._journals_in

    def look_and_then_compress(folder):
        found = look(folder)
        if directory.journal_of("b" * 8).exists():
            compress_journal(directory, directory.journal_of("b" * 8))
        return found

    for list_runs in (recorded_runs, lambda _: [uid_of_journal(find_journal(data_dir, "bb"))]):
        with monkeypatch.context() as patch:
            patch.setattr(journal_module, "_journals_in", look_and_then_compress)
            assert "b" * 8 in list_runs(data_dir)
        compressed = directory.delivered_journal_of("b" * 8)
        (directory.journals / f"{'b' * 8}.jsonl").write_bytes(gzip.decompress(compressed.read_bytes()))
        compressed.unlink()


def test_a_tail_reads_whole_lines_as_they_come(journal, data_dir):
    journal("start", start())
    path = find_journal(data_dir, "a" * 8)
    tail = JournalTail(path)
    assert [name for name, _ in tail.read()] == ["start"]
    with open(path, "ab") as file:
        file.write(b'{"name":"stop",')
        file.flush()
        assert tail.read() == []
        file.write(b'"doc":{}}\n')
    assert tail.read() == [("stop", {})]
    assert tail.line == 2
    tail.close()


def test_unknown_and_ambiguous_uids_are_told_apart(journal, data_dir):
    for uid in ("abcdef-1", "abcdef-2"):
        journal("start", start(uid))
    with pytest.raises(UnknownRun, match=r"There is no run 'zzz'"):
        original_documents(data_dir, "zzz")
    with pytest.raises(UnknownRun, match=r"beginning of 2 runs .*abcdef-1, abcdef-2\. Give more characters"):
        original_documents(data_dir, "abcdef")
    with pytest.raises(UnknownRun):
        original_documents(data_dir, "")


class FullDisk:
    """Lets a number of bytes through and then refuses like a full disk."""

    def __init__(self, monkeypatch, room, error=errno.ENOSPC):
        self.room = room
        self.error = error
        self._write = os.write
        monkeypatch.setattr(journal_module.os, "write", self)

    def __call__(self, descriptor, data):
        part = bytes(data)[: self.room]
        if not part:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= len(part)
        return self._write(descriptor, part)


def test_a_full_disk_fails_the_scan_with_a_clear_message(RE, data_dir, devices, monkeypatch):
    motor, det = devices
    with Journal(data_dir) as journal:
        RE.subscribe(journal)
        disk = FullDisk(monkeypatch, room=6000)
        with pytest.raises(DiskFull, match=r"No space is left on the disk of .*\.jsonl; the run is not being recorded"):
            RE(scan([det], motor, -1, 1, 500))
        disk.room = 10**9
        assert RE.state == "idle"
        (path,) = (data_dir / "journal").glob("*.jsonl")
        for _, document in read_journal(path):  # no half line in between
            assert document["uid"]
        (uid,) = RE(count([det]))
        assert [name for name, _ in original_documents(data_dir, uid)][-1] == "stop"


def test_with_a_pause_nothing_is_lost_when_space_comes_back(RE, data_dir, devices, monkeypatch):
    motor, det = devices
    emitted, told = [], []
    with Journal(data_dir, pause=RE.request_pause, on_trouble=told.append) as journal:
        RE.subscribe(journal)
        RE.subscribe(lambda name, doc: emitted.append((name, doc)))
        disk = FullDisk(monkeypatch, room=6000)
        with pytest.raises(Exception, match="Your RunEngine is entering a paused state"):
            RE(scan([det], motor, -1, 1, 200))
        assert RE.state == "paused"
        assert [type(error) for error in told] == [DiskFull]
        disk.room = 10**9
        RE.resume()
        uid = emitted[0][1]["uid"]
        assert original_documents(data_dir, uid) == emitted


def test_a_pause_that_is_not_heeded_ends_in_an_error(data_dir, monkeypatch):
    monkeypatch.setattr(journal_module, "PENDING_LIMIT_BYTES", 2000)
    with Journal(data_dir, pause=lambda: None) as journal:
        journal("start", start())
        journal("descriptor", descriptor())
        FullDisk(monkeypatch, room=0)
        with pytest.raises(DiskFull):
            for number in range(100):
                journal("event", event(number, note="x" * 100))


def test_a_failing_sync_is_reported_with_the_next_document(data_dir, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    with Journal(data_dir) as journal:
        monkeypatch.setattr(journal_module, "sync_descriptor", fail)
        journal("start", start())
        wait_until(lambda: journal._sync_error, "the sync to fail", 5.0)
        with pytest.raises(JournalWriteError, match="Input/output error"):
            journal("descriptor", descriptor())
        monkeypatch.undo()


def test_documents_are_synced_within_a_second_and_the_stop_at_once(data_dir, monkeypatch):
    synced = []
    original = journal_module.sync_descriptor

    def note(descriptor):
        original(descriptor)
        synced.append((time.monotonic(), os.fstat(descriptor).st_size))

    monkeypatch.setattr(journal_module, "sync_descriptor", note)
    with Journal(data_dir) as journal:
        journal("start", start())
        path = find_journal(data_dir, "a" * 8)
        journal("descriptor", descriptor())
        journal("event", event(1))
        size, then = path.stat().st_size, time.monotonic()
        wait_until(lambda: synced and synced[-1][1] >= size, "the event to be synced", 3.0)
        assert synced[-1][0] - then < 1.5
        journal("stop", stop())
        assert synced[-1][1] == path.stat().st_size


def test_a_thread_exists_only_while_a_run_is_open(journal):
    def syncers():
        return [thread for thread in threading.enumerate() if thread.name == "journal sync"]

    assert not syncers()
    journal("start", start())
    assert len(syncers()) == 1
    journal("stop", stop())
    wait_until(lambda: not syncers(), "the sync thread to end", 3.0)


def test_a_place_that_is_no_directory_is_refused(tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(DataDirectoryError, match=r"cannot be used: .*Give a directory that you may write to"):
        Journal(place)


def test_a_name_that_no_database_address_can_hold_is_refused(tmp_path):
    with pytest.raises(DataDirectoryError, match=r"its name contains # \?, which mean something else"):
        Journal(tmp_path / "what?#")
    assert list(tmp_path.iterdir()) == []


def answer_of_nobody(function):
    """Return the error that a function ends with when it is called by a user who may do nothing here."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            function()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        os.waitpid(child, 0)
        return answer.read()


def test_an_unreadable_directory_is_refused_by_everything_that_reads_it(data_dir):
    directory = DataDirectory.at(data_dir)
    with Journal(data_dir) as journal:
        journal("start", start())
    directory.journals.chmod(0)
    directory.sessions.chmod(0)
    directory.root.chmod(0)
    for function in (
        lambda: Journal(data_dir),
        lambda: open_catalog(data_dir),
        lambda: original_documents(data_dir, "a" * 8),
        lambda: maintenance.status(data_dir),
        lambda: compact(data_dir),
        lambda: shut_down(data_dir),
        lambda: annotate(data_dir, "a" * 8, note="n"),
        lambda: annotations_of(data_dir, "a" * 8),
    ):
        assert answer_of_nobody(function).startswith(
            f"DataDirectoryError: The data directory {data_dir} cannot be used: "
        )
    directory.root.chmod(0o700)


def test_an_event_costs_tens_of_microseconds(journal):
    journal("start", start())
    journal("descriptor", descriptor())
    took = []
    for number in range(3000):
        document = event(number, motor=np.float64(number), det=0.1 * number, other=number)
        before = time.perf_counter()
        journal("event", document)
        took.append(time.perf_counter() - before)
    assert np.median(took) < 100e-6


def test_images_in_events_are_recorded_exactly(RE, journal, data_dir):
    image = np.random.default_rng(3).integers(0, 2**16, (64, 48), dtype="u2")
    camera = SynSignal(name="camera", func=lambda: image)
    RE.subscribe(journal)
    (uid,) = RE(count([camera], 2))
    images = [doc["data"]["camera"] for name, doc in original_documents(data_dir, uid) if name == "event"]
    assert len(images) == 2
    for recorded in images:
        np.testing.assert_array_equal(recorded, image)
        assert recorded.dtype == image.dtype


def test_recording_imports_no_tiled_and_little_else():
    script = (
        "import sys, catalog.journal;"
        "print([module for module in ('tiled', 'httpx', 'bluesky', 'pandas') if module in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
