"""Whatever dies in between, every emitted document is in the catalog exactly once."""

from __future__ import annotations

import gc
import os
import signal
import stat
import threading
import time
import traceback
import tracemalloc
import uuid
from pathlib import Path

import pytest
from bluesky.plans import count
from catalog_helpers import alive, assert_all_there, assert_images_there, state_of, wait_until
from ophyd.sim import SynSignal

from catalog import (
    CatalogSession,
    CatalogStartFailed,
    CatalogTimeout,
    CatalogUnavailable,
    open_catalog,
    original_documents,
    shut_down,
)
from catalog.delivery import UNFINISHED_REASON
from catalog.directory import CatalogState, DataDirectory
from catalog.launch import daemon_runs, leases_held, leave_daemon

pytestmark = pytest.mark.server

READERS = 3
"""The soak has twenty, in processes of their own."""


@pytest.fixture
def det():
    return SynSignal(name="det", func=lambda: 1.5)


def wait_partly_delivered(session, uid):
    """Wait until rows of a run that goes on are on the server."""
    catalog = session.catalog(wait=60.0)

    def rows():
        stream = catalog[uid].get("primary") if uid in catalog else None
        return stream is not None and "internal" in stream.base and len(stream.base["internal"].read())

    wait_until(rows, "rows of the running scan")


def test_a_session_killed_while_it_writes_is_delivered_up_to_the_tear(served, measuring):
    session = measuring(served.directory.root)
    session.wait_events(30)
    uid = session.uid
    os.kill(session.process.pid, signal.SIGSTOP)
    with open(served.directory.journal_of(uid), "ab") as file:
        file.write(b'{"name":"event","doc":{"uid":"torn')
    session.kill()
    assert_all_there(served, uid, session.emitted)
    stop = served.catalog()[uid].metadata["stop"]
    assert stop["exit_status"] == "fail"
    assert stop["reason"] == UNFINISHED_REASON
    assert stop["num_events"]["primary"] >= 30
    assert 0 <= stop["time"] - original_documents(served.directory.root, uid)[-2][1]["time"] < 1.0


def test_the_server_is_killed_and_then_the_daemon_and_the_session_at_once(served, measuring):
    session = measuring(served.directory.root, delay_s=0.1)
    wait_partly_delivered(served, session.uid)
    first = state_of(served)
    os.kill(first.server_pid, signal.SIGKILL)

    def started_anew():
        state = CatalogState.read(served.directory)
        return state if state is not None and state.phase == "ready" and state.server_pid != first.server_pid else None

    second = wait_until(started_anew, "another server")
    assert second.daemon_pid == first.daemon_pid
    assert second.url == first.url  # who had it open goes on
    wait_partly_delivered(served, session.uid)
    catalog = served.catalog()
    run = catalog[session.uid]
    assert session.process.poll() is None
    for pid in (second.daemon_pid, session.process.pid):
        os.kill(pid, signal.SIGKILL)
    assert len(run["primary"].base["internal"].read(["seq_num"])) > 0  # waits for the next ones
    assert session.uid in list(catalog)
    session.finish()
    wait_until(lambda: not alive(second.server_pid), "the server to end with its daemon")
    assert_all_there(served, session.uid, session.emitted)
    assert state_of(served).daemon_pid != second.daemon_pid


def test_images_are_readable_when_a_frame_was_taken_and_not_announced(served, measuring, tmp_path):
    daemon = state_of(served).daemon_pid
    os.kill(daemon, signal.SIGSTOP)  # it must not have read what is to be cut off
    try:
        session = measuring(served.directory.root, images=tmp_path / "images")
        session.wait_events(3)
        os.kill(session.process.pid, signal.SIGSTOP)
        path = served.directory.journal_of(session.uid)
        lines = path.read_bytes().splitlines(keepends=True)
        while b'"name":"datum"' not in lines.pop():
            pass
        os.truncate(path, sum(map(len, lines)))
        session.kill()
    finally:
        os.kill(daemon, signal.SIGCONT)
    served.wait_delivered(session.uid, timeout=60.0)
    assert assert_images_there(served, session.uid) == sum(b'"name":"datum"' in line for line in lines) >= 2


def read_again_and_again(session, stop, seen, failures):
    """Read the newest runs as an analyst would; rows that were there must not be missing the next time."""
    catalog = session.catalog()
    try:
        while not stop.is_set():
            for uid in list(catalog)[-2:]:
                run = catalog[uid]
                if "primary" in run and "internal" in run["primary"].base:
                    rows = len(run["primary"].base["internal"].read(["seq_num"]))
                    assert rows >= seen.get(uid, 0)
                    seen[uid] = rows
            stop.wait(0.5)
    except Exception as error:
        failures.append(error)


def memory_of(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_events_while_the_server_answers_nothing_need_no_more_memory(served):
    """Neither of the session nor of the daemon, which runs and delivers what it can."""
    events = 30_000
    run, descriptor = str(uuid.uuid4()), str(uuid.uuid4())
    state = state_of(served)
    emit = served.journal
    before = memory_of(state.daemon_pid)
    os.kill(state.server_pid, signal.SIGSTOP)
    try:
        emit("start", {"uid": run, "time": time.time(), "plan_name": "flood"})
        data_keys = {"x": {"source": "flood", "dtype": "number", "shape": []}}
        about = {"run_start": run, "name": "primary", "configuration": {}, "hints": {}, "object_keys": {}}
        emit("descriptor", {"uid": descriptor, "time": time.time(), "data_keys": data_keys, **about})
        gc.collect()
        tracemalloc.start()
        for number in range(1, events + 1):
            now = time.time()
            event = {"uid": f"{number}", "descriptor": descriptor, "seq_num": number, "time": now}
            emit("event", {**event, "data": {"x": number / 7}, "timestamps": {"x": now}})
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        emit("stop", {"uid": str(uuid.uuid4()), "run_start": run, "time": time.time(), "exit_status": "success"})
        daemon_grown = memory_of(state.daemon_pid) - before
    finally:
        os.kill(state.server_pid, signal.SIGCONT)
    assert grown < 1_000_000
    assert daemon_grown < 200e6
    served.wait_delivered(run, timeout=60.0)
    table = served.catalog()[run]["primary"].base["internal"].read(["seq_num"])
    assert table["seq_num"].tolist() == list(range(1, events + 1))


def test_two_sessions_and_their_readers_do_not_disturb_each_other(served, measuring):
    stop, failures = threading.Event(), []
    seen = [{} for _ in range(READERS)]
    readers = [threading.Thread(target=read_again_and_again, args=(served, stop, own, failures)) for own in seen]
    for reader in readers:
        reader.start()
    try:
        lasting = measuring(served.directory.root, events=60)
        lasting.wait_events(5)
        # Nothing tells a stopped process from a slow one but that it lives.
        os.kill(lasting.process.pid, signal.SIGSTOP)
        short = measuring(served.directory.root, events=10)
        short.finish()
        assert_all_there(served, short.uid, short.emitted)
        wait_until(lambda: lasting.uid in served.catalog(), "the other run")
        assert "stop" not in served.catalog()[lasting.uid].metadata
        os.kill(lasting.process.pid, signal.SIGCONT)
        lasting.finish()
        assert_all_there(served, lasting.uid, lasting.emitted)
    finally:
        stop.set()
        for reader in readers:
            reader.join(60.0)
    assert served.catalog()[lasting.uid].metadata["stop"]["exit_status"] == "success"
    assert failures == []
    assert all(short.uid in own or lasting.uid in own for own in seen)


def test_the_key_is_in_its_file_and_nowhere_else(served):
    """After all that was killed above: logs, databases, journals, command lines and errors."""
    key = served.directory.read_key().encode()
    for path in served.directory.root.rglob("*"):
        if path.is_file() and path != served.directory.key_file:
            assert key not in path.read_bytes(), path
    state = state_of(served)
    for pid in (state.daemon_pid, state.server_pid):
        assert key not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert key not in Path(f"/proc/{pid}/environ").read_bytes()
    assert stat.S_IMODE(served.directory.key_file.stat().st_mode) == 0o600
    catalog = served.catalog()
    with pytest.raises(KeyError) as caught:
        catalog["no-such-run"]
    assert key.decode() not in "".join(traceback.format_exception(caught.value))
    assert key.decode() not in repr(catalog)


def test_the_life_of_a_catalog(RE, data_dir, det):
    """Nobody waits for its start; the last one to leave stops it; who comes meanwhile is served; or it is kept."""
    with CatalogSession(data_dir) as session:
        with pytest.raises(CatalogTimeout, match=r"was not ready within 0.1 s.*try again"):
            session.catalog(wait=0.1)
        RE.subscribe(session.journal)
        (uid,) = RE(count([det]))
        first = wait_until(lambda: CatalogState.read(session.directory), "the daemon")
        wait_until(lambda: session.directory.delivered_journal_of(uid), "the run")

    def goes():
        state = CatalogState.read(session.directory)
        return state is None or state.phase == "stopping"

    wait_until(goes, "the daemon to leave")
    catalog = open_catalog(data_dir, wait=60.0)
    assert list(catalog) == [uid]
    run = catalog[uid]
    assert state_of(session).daemon_pid != first.daemon_pid
    with CatalogSession(data_dir) as keeper:
        keeper.keep()
    leave_daemon(data_dir)
    time.sleep(0.6)  # long enough for a daemon that would leave
    kept = state_of(session)
    assert alive(kept.daemon_pid)
    assert leases_held(session.directory) == 0
    assert shut_down(data_dir, timeout=60.0) is True
    wait_until(lambda: not alive(kept.daemon_pid), "the daemon's process to end")
    assert not alive(kept.server_pid)
    assert not session.directory.state_file.exists()
    assert not daemon_runs(session.directory)
    for ask in (
        lambda: run["primary"].read(),
        lambda: run["primary"]["det"].read(),
        lambda: catalog[-1],
        lambda: catalog[str(uuid.uuid4())],
        lambda: list(catalog.search(plan="count")),
        lambda: len(catalog),
        lambda: catalog.v1[-1],
        lambda: run.documents(),
        session.catalog,
    ):
        with pytest.raises(CatalogUnavailable, match=f"The catalog of {data_dir} has been stopped.*open_catalog"):
            list(ask())


def test_a_server_that_cannot_start_is_reported_with_its_log(data_dir):
    directory = DataDirectory.at(data_dir)
    directory.create()
    directory.database.write_bytes(b"this is no database" * 100)
    told = []
    with CatalogSession(data_dir, on_trouble=told.append) as session:
        with pytest.raises(CatalogStartFailed, match="server does not start") as caught:
            session.catalog(wait=50.0)
        assert "file is not a database" in caught.value.log
        assert "Restore it from a backup, or move the server folder away" in str(caught.value)
        wait_until(lambda: told, "the user to be told")
        assert str(told[0]).startswith("The catalog's server does not start. The server ended with status 1.")
        session.close(wait_delivered=30.0)
    assert len(told) == 1


def test_a_daemon_that_cannot_start_is_reported(data_dir, monkeypatch):
    DataDirectory.at(data_dir).create()
    monkeypatch.setattr("catalog.launch.module_command", lambda *_: ["/bin/sh", "-c", "echo broken >&2; exit 7"])
    with pytest.raises(CatalogStartFailed, match=r"daemon ended with status 7 .*\nThe log ends with:\nbroken"):
        open_catalog(data_dir, wait=10.0)
    leave_daemon(data_dir)
