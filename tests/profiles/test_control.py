"""The control channel: who may ask what, and that a session does not notice."""

import contextlib
import json
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from profiles.control import ControlServer, SessionGone, directory, running_sessions, server
from profiles.control.client import RequestRefused, RunningSession
from profiles.control.directory import LONGEST_SOCKET_PATH, ControlDirectoryError, control_directory
from profiles.progress import RunProgress


@pytest.fixture(autouse=True)
def runtime_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test a directory of its own for sockets, under a path that is short enough."""
    with tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as path:
        monkeypatch.setenv("XDG_RUNTIME_DIR", path)
        yield Path(path)


FACTS = {"pid": os.getpid(), "name": "bench", "data_dir": "/data/one", "began": 1.0}


def refuses() -> None:
    raise ValueError("not now")


@pytest.fixture
def control() -> Iterator[ControlServer]:
    control = ControlServer({"session": lambda: dict(FACTS), "wires": lambda: [1, 2], "health": refuses})
    control.start()
    yield control
    control.close()


def said(path: Path, *lines: bytes) -> list[dict]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        with contextlib.suppress(OSError):  # the other side may have closed at once
            connection.sendall(b"".join(lines))
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


def test_questions_are_answered_in_lines_of_json(control: ControlServer):
    assert said(control.path, b'{"ask": "wires", "id": 7}\n', b'{"ask": "health"}\n') == [
        {"id": 7, "ok": True, "result": [1, 2]},
        {"ok": False, "error": "not now"},
    ]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"wires\n", 'a request is a line of JSON such as {"ask": "wires"}'),
        (b"[]\n", 'a request is a line of JSON such as {"ask": "wires"}'),
        (b'{"ask": "stop"}\n', "nothing is known of 'stop'; ask for: session, wires, health"),
        (b'{"ask": ["wires"]}\n', "nothing is known of ['wires']; ask for: session, wires, health"),
        (b"x" * 5000, "a request is one line of at most 4096 bytes"),
    ],
)
def test_what_is_no_question_is_told_so(control: ControlServer, line: bytes, error: str):
    assert said(control.path, line)[0] == {"ok": False, "error": error}


def test_only_its_user_can_reach_the_socket(control: ControlServer, runtime_directory: Path):
    assert control.path.parent == runtime_directory / "tandem"
    assert stat.S_IMODE(control.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o600
    assert len(os.fsencode(control.path)) < LONGEST_SOCKET_PATH


def test_another_user_is_turned_away(control: ControlServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "peer_user", lambda connection: os.getuid() + 1)
    assert said(control.path) == [{"ok": False, "error": "this session belongs to another user"}]


def test_the_peer_is_who_it_is():
    one, other = socket.socketpair()
    with one, other:
        assert server.peer_user(one) == os.getuid()


def test_more_than_a_few_at_once_are_asked_to_come_back(control: ControlServer, wait_for):
    def ask() -> dict:
        with socket.socket(socket.AF_UNIX) as late:
            late.settimeout(5)
            late.connect(str(control.path))
            with late.makefile("rb") as answers:
                with contextlib.suppress(BrokenPipeError):
                    late.sendall(b'{"ask": "wires"}\n')
                return json.loads(answers.readline())

    waiting = [socket.socket(socket.AF_UNIX) for _ in range(server.MOST_CONNECTIONS)]
    for connection in waiting:
        connection.connect(str(control.path))
    refused = ask()
    assert refused == {"ok": False, "error": "this session is asked by 8 others already; try again later"}
    for connection in waiting:
        connection.close()
    wait_for(lambda: ask()["ok"])


def test_a_question_that_takes_long_keeps_nobody_else_waiting():
    release = threading.Event()
    control = ControlServer({"session": lambda: dict(FACTS), "health": lambda: release.wait(10)})
    control.start()
    slow = threading.Thread(target=said, args=(control.path, b'{"ask": "health"}\n'))
    slow.start()
    try:
        assert said(control.path, b'{"ask": "session"}\n')[0]["ok"]
    finally:
        release.set()
        slow.join()
        control.close()


def test_sessions_are_found_by_where_their_runs_go(control: ControlServer):
    with running_sessions() as found:
        assert [each.facts for each in found] == [FACTS]
        assert found[0].ask("wires") == [1, 2]
        with pytest.raises(RequestRefused, match=r"^not now$"):
            found[0].ask("health")
    with running_sessions(Path("/data/other")) as found:
        assert found == []


def test_the_socket_of_a_killed_session_is_removed(control: ControlServer):
    dead = control.path.with_name("999999999-00000000.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    busy = control.path.with_name(f"{os.getpid()}-00000000.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(busy))
    with running_sessions() as found:
        assert len(found) == 1
    assert not dead.exists()
    assert busy.exists()


def test_closing_ends_all_connections_and_is_told_to_who_asks(control: ControlServer):
    with RunningSession(control.path, dict(FACTS)) as session:
        assert session.ask("wires") == [1, 2]
        began = time.monotonic()
        control.close()
        control.close()
        assert time.monotonic() - began < 5
        assert not control.path.exists()
        with pytest.raises(SessionGone, match=rf"^the session of process {os.getpid()} does not answer: "):
            session.ask("wires")


def test_who_reads_no_answer_keeps_no_session_from_closing():
    control = ControlServer({"session": lambda: "x" * 10**7})
    control.start()
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(control.path))
        lazy.sendall(b'{"ask": "session"}\n')
        time.sleep(0.05)
        began = time.monotonic()
        control.close()
        assert time.monotonic() - began < 5


def test_a_directory_that_is_not_ones_own_is_refused(runtime_directory: Path, monkeypatch: pytest.MonkeyPatch):
    (runtime_directory / "tandem").write_text("")
    with pytest.raises(ControlDirectoryError, match=r"tandem cannot be made \(File exists\)\. Remove it, or set XDG"):
        control_directory()
    (runtime_directory / "tandem").unlink()
    control_directory()
    monkeypatch.setattr(directory.os, "getuid", lambda: 123456)
    with pytest.raises(ControlDirectoryError, match="tandem belongs to another user"):
        control_directory()


def test_a_path_too_long_for_a_socket_is_avoided(runtime_directory: Path, monkeypatch: pytest.MonkeyPatch):
    long = runtime_directory / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr(directory.tempfile, "gettempdir", lambda: str(runtime_directory))
    assert control_directory().name == f"tandem-{os.getuid()}"
    monkeypatch.setattr(directory.tempfile, "gettempdir", lambda: str(long))
    assert control_directory() == Path(f"/tmp/tandem-{os.getuid()}")


def test_progress_is_counted_from_documents():
    progress = RunProgress()
    assert progress.as_json() == {"run": None, "last_run": None}
    progress.document("start", {"uid": "r", "scan_id": 3, "plan_name": "grid", "time": 1.0, "shape": [2, 5]})
    progress.document("descriptor", {"uid": "d", "run_start": "r", "name": "primary"})
    progress.document("descriptor", {"uid": "b", "run_start": "r", "name": "baseline"})
    progress.document("event", {"descriptor": "b", "time": 2.0})
    progress.document("event", {"descriptor": "d", "time": 3.0})
    progress.document("event_page", {"descriptor": "d", "seq_num": [2, 3], "time": [4.0, 5.0]})
    run = progress.as_json()["run"]
    assert (run["scan_id"], run["points"], run["expected_points"], run["last_point"]) == (3, 3, 10, 5.0)
    progress.document("stop", {"run_start": "r", "exit_status": "abort", "time": 6.0})
    after = progress.as_json()
    assert after["run"] is None
    assert (after["last_run"]["points"], after["last_run"]["exit_status"]) == (3, "abort")
