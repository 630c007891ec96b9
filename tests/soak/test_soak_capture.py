"""The long proofs of capture: whatever dies, fails or is full, every document is in the catalog exactly once."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import measuring_session
import pytest
from bluesky import RunEngine, RunEngineInterrupted
from catalog_helpers import (
    MeasuringSession,
    assert_all_there,
    assert_images_there,
    fill_disk,
    small_disk,
    state_of,
    wait_until,
)
from faulty_server import FaultyServer

from catalog import CatalogSession, ExternalServer, original_documents
from catalog.directory import CatalogState
from catalog.locking import FileLock

pytestmark = [pytest.mark.soak, pytest.mark.server, pytest.mark.timeout(3600)]

ROUNDS = 52
"""Thirteen for each victim."""

EVENTS = 1_000_000
LARGEST_DAEMON_MB = 1500
READERS = 20

PATIENCE_S = 600.0
"""For what is left to deliver when everything has been killed again and again."""


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def report(**figures):
    print(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in figures.items()), flush=True)


def test_kills_at_random_moments(data_dir, tmp_path):
    dice = random.Random(20250611)
    with CatalogSession(data_dir) as session, contextlib.ExitStack() as stack:
        session.catalog(wait=PATIENCE_S)
        runs = []
        for victim in itertools.islice(itertools.cycle(["server", "daemon", "session", "all"]), ROUNDS):
            run = stack.enter_context(MeasuringSession(data_dir, events=150, delay_s=0.01, images=tmp_path / "images"))
            runs.append(run)
            run.wait_events(1)
            time.sleep(dice.uniform(0.0, 2.5))
            state = CatalogState.read(session.directory)
            victims = {
                "server": [state and state.server_pid],
                "daemon": [state and state.daemon_pid],
                "session": [run.process.pid],
                "all": [state and state.server_pid, state and state.daemon_pid, run.process.pid],
            }[victim]
            for pid in victims:
                if pid:
                    with contextlib.suppress(ProcessLookupError):  # it is being started again
                        os.kill(pid, signal.SIGKILL)
            run.finish(PATIENCE_S)
        images = 0
        ends = Counter()
        for run in runs:
            assert_all_there(session, run.uid, run.emitted, PATIENCE_S)
            images += assert_images_there(session, run.uid)
            ends[session.catalog()[run.uid].metadata["stop"]["exit_status"]] += 1
        assert len(session.catalog(wait=PATIENCE_S)) == ROUNDS
        documents = sum(len(original_documents(data_dir, run.uid)) for run in runs)
        report(kills=ROUNDS, documents=documents, images=images, ends=dict(ends))
        assert ends["fail"] <= ROUNDS // 2
        session.close(wait_delivered=60.0)


def test_a_disk_that_is_full_at_random_moments(tmp_path):
    dice = random.Random(7)
    engine = RunEngine({})
    with small_disk(tmp_path / "disk", 60) as disk:
        data_dir = disk / "data"
        with CatalogSession(data_dir, pause=lambda: engine.request_pause(defer=False)) as session:
            session.catalog(wait=PATIENCE_S)
            emitted = []
            engine.subscribe(session.journal)
            engine.subscribe(lambda name, document: emitted.append((name, document)))
            pauses = documents = 0
            for _ in range(12):
                emitted.clear()
                after = dice.uniform(0.05, 3.0)
                ballast = disk / "ballast"
                filling = threading.Timer(after, fill_disk, [disk])
                filling.start()
                plan = measuring_session.plan(
                    [measuring_session.det, measuring_session.motor, measuring_session.wave], 300, 0.005
                )
                try:
                    engine(plan)
                except RunEngineInterrupted:
                    pauses += 1
                    filling.join()
                    count = len(emitted)
                    time.sleep(dice.uniform(0.0, 3.0))
                    assert len(emitted) == count
                    ballast.unlink()
                    engine.resume()
                filling.join()
                ballast.unlink(missing_ok=True)
                assert_all_there(session, emitted[0][1]["uid"], emitted)
                documents += len(emitted)
            report(full_disks=12, pauses=pauses, documents=documents)
            assert pauses >= 10
            session.close(wait_delivered=60.0)


def test_a_server_that_answers_errors_for_a_while(data_dir, tmp_path):
    dice = random.Random(11)
    with CatalogSession(tmp_path / "elsewhere") as other:
        other.catalog(wait=60.0)
        faulty = FaultyServer(state_of(other).url, hang_s=1.0)
        elsewhere = ExternalServer(uri=faulty.url, key_file=str(other.directory.key_file))
        told = []
        try:
            with (
                CatalogSession(data_dir, server=elsewhere, on_trouble=told.append) as session,
                contextlib.ExitStack() as stack,
            ):
                session.catalog(wait=PATIENCE_S)
                kinds = [500, 503, "cut", "lose", "hang"]
                faulty.fault = lambda method, path: dice.choice(kinds) if dice.random() < 0.1 else None
                runs = []
                for number in range(10):
                    run = MeasuringSession(data_dir, events=100, delay_s=0.01, images=tmp_path / "images")
                    runs.append(stack.enter_context(run))
                    if number == 5:
                        faulty.fault = lambda *_: dice.choice(kinds)  # now everything fails
                    run.finish(PATIENCE_S)
                    assert run.process.returncode == 0
                wait_until(lambda: told, "the user to be told", 60.0)
                faulty.fault = lambda *_: None
                for run in runs:
                    assert_all_there(session, run.uid, run.emitted, PATIENCE_S)
                    assert_images_there(session, run.uid)
                report(faults=dict(faulty.faults), runs=len(runs), told=len(told))
                session.close(wait_delivered=60.0)
        finally:
            faulty.close()
        other.close(wait_delivered=60.0)


@contextlib.contextmanager
def server_kept_down(session):
    """Kill the server, and keep every one that the daemon starts in its place from the databases."""
    lock = FileLock(session.directory.server_lock)

    def taken():
        state = state_of(session)
        if lock.acquire():
            return True
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(state.server_pid, signal.SIGKILL)
        return False

    wait_until(taken, "the server to be down")
    try:
        yield
    finally:
        lock.release()


class MemoryOf(threading.Thread):
    """Watches the memory that a process holds, in MB, until told to stop."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid = pid
        self.first = self.now
        self.most = self.first
        self._done = threading.Event()

    @property
    def now(self):
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    def run(self):
        while not self._done.wait(0.02):
            self.most = max(self.most, self.now)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()


def flood(emit, run, descriptor):
    """Emit a run of a million events."""
    emit("start", {"uid": run, "time": time.time(), "plan_name": "flood"})
    data_keys = {"x": {"source": "flood", "dtype": "number", "shape": []}}
    about = {"run_start": run, "name": "primary", "configuration": {}, "hints": {}, "object_keys": {}}
    emit("descriptor", {"uid": descriptor, "time": time.time(), "data_keys": data_keys, **about})
    for number in range(1, EVENTS + 1):
        now = time.time()
        event = {"uid": f"{number}", "descriptor": descriptor, "seq_num": number, "time": now}
        emit("event", {**event, "data": {"x": number / 7}, "timestamps": {"x": now}})
    end = {"uid": str(uuid.uuid4()), "run_start": run, "time": time.time(), "exit_status": "success"}
    emit("stop", {**end, "num_events": {"primary": EVENTS}})


def test_a_million_events_while_the_server_is_down(data_dir):
    run, descriptor = str(uuid.uuid4()), str(uuid.uuid4())
    told = []
    with CatalogSession(data_dir, on_trouble=told.append) as session:
        session.catalog(wait=PATIENCE_S)
        first = state_of(session)
        with server_kept_down(session), MemoryOf(os.getpid()) as mine, MemoryOf(first.daemon_pid) as daemons:
            began = time.monotonic()
            flood(session.journal, run, descriptor)
            recorded_s = time.monotonic() - began
            # The daemon has given servers up meanwhile, looks at the journals again and again, and starts the next.
            wait_until(lambda: told, "the user to be told", PATIENCE_S)
            assert state_of(session).daemon_pid == first.daemon_pid
            assert state_of(session).phase == "failed"
            assert not session.directory.delivered_journal_of(run)
            down_s = time.monotonic() - began
        grown, daemon_grown = mine.most - mine.first, daemons.most - daemons.first
        assert grown < 100
        assert daemon_grown < 100
        began = time.monotonic()
        with MemoryOf(os.getpid()) as mine, MemoryOf(first.daemon_pid) as daemons:
            wait_until(lambda: session.directory.delivered_journal_of(run), "a million events", timeout=1800.0)
        report(
            recorded_s=round(recorded_s, 1),
            down_s=round(down_s, 1),
            session_grew_MB=round(grown, 1),
            daemon_grew_MB=round(daemon_grown, 1),
            delivered_s=round(time.monotonic() - began, 1),
            servers_started_meanwhile=state_of(session).restarts,
            session_at_most_MB=round(mine.most),
            daemon_at_most_MB=round(daemons.most),
        )
        assert state_of(session).daemon_pid == first.daemon_pid
        assert mine.most - mine.first < 100
        assert daemons.most < LARGEST_DAEMON_MB
        table = session.catalog(wait=PATIENCE_S)[run]["primary"].base["internal"].read(["seq_num", "x"])
        assert table["seq_num"].tolist() == list(range(1, EVENTS + 1))
        assert table["x"].tolist() == [number / 7 for number in range(1, EVENTS + 1)]
        assert sum(name == "event" for name, _ in original_documents(data_dir, run)) == EVENTS
        session.close(wait_delivered=60.0)


def test_two_writers_and_twenty_readers(data_dir):
    reader = Path(__file__).parents[1] / "catalog" / "reading_session.py"
    with CatalogSession(data_dir) as session, contextlib.ExitStack() as stack:
        session.catalog(wait=PATIENCE_S)
        runs = []
        stop = data_dir / "stop-reading"
        readers = [
            subprocess.Popen([sys.executable, reader, data_dir, stop, "5"], stdout=subprocess.PIPE, text=True)
            for _ in range(READERS // 5)
        ]
        for process in readers:
            assert [process.stdout.readline() for _ in range(5)] == ["ready\n"] * 5
        for _ in range(6):
            pair = [stack.enter_context(MeasuringSession(data_dir, events=300, delay_s=0.01)) for _ in range(2)]
            for run in pair:
                run.finish(120.0)
                assert run.process.returncode == 0
            runs += pair
        stop.write_text("")
        outputs = [process.communicate(timeout=120)[0] for process in readers]
        assert [process.returncode for process in readers] == [0] * len(readers), outputs
        for run in runs:
            assert_all_there(session, run.uid, run.emitted, PATIENCE_S)
            assert session.catalog()[run.uid].metadata["stop"]["exit_status"] == "success"
        report(runs=len(runs), readers=READERS, reads=sum(int(output.split()[-1]) for output in outputs))
        session.close(wait_delivered=60.0)
