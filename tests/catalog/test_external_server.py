"""A server run by somebody else takes the runs like an own one, and is not needed while measuring."""

from __future__ import annotations

import json
import threading
import time

import pytest
from bluesky.plans import count
from catalog_helpers import state_of, wait_until
from ophyd.sim import SynSignal

from catalog import CatalogError, CatalogRefuses, CatalogSession, CatalogStartFailed, ExternalServer, KeyRejected
from catalog.client import connect
from catalog.directory import CatalogState, DataDirectory
from catalog.verify import compare_run

pytestmark = pytest.mark.server


@pytest.fixture
def det():
    return SynSignal(name="det", func=lambda: 1.5)


@pytest.fixture
def elsewhere(served):
    """The shared catalog's server, in the part of one that somebody else runs."""
    return ExternalServer(uri=state_of(served).url, key_file=str(served.directory.key_file))


def test_runs_for_a_server_out_of_reach_wait_and_go_to_the_other_one(RE, data_dir, elsewhere, det):
    told = []
    nobody = ExternalServer(uri="http://127.0.0.1:9", key_file=elsewhere.key_file)
    with CatalogSession(data_dir, server=nobody, on_trouble=told.append) as session:
        RE.subscribe(session.journal)
        before = time.monotonic()
        (uid,) = RE(count([det], 3))
        assert time.monotonic() - before < 5.0
        with pytest.raises(
            CatalogStartFailed, match=r"out of reach: http://127.0.0.1:9 .*will be delivered when it is back"
        ):
            session.catalog(wait=40.0)
        wait_until(lambda: told, "the user to be told", 5.0)
        assert session.close(wait_delivered=20.0) is True
    assert len(told) == 1
    with CatalogSession(data_dir, server=elsewhere) as session:
        session.wait_delivered(uid, timeout=40.0)
        assert session.catalog().uri.startswith(elsewhere.uri)
        assert compare_run(data_dir, session.catalog()[uid]) == []
        assert not session.directory.database.exists()
        assert session.close(wait_delivered=20.0) is True


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    server = ExternalServer(uri="https://tiled.example", key_variable="LAB_KEY")
    monkeypatch.delenv("LAB_KEY", raising=False)
    with pytest.raises(
        CatalogError, match=r"no key for https://tiled.example. Put it into the environment variable LAB_KEY"
    ):
        server.key()
    monkeypatch.setenv("LAB_KEY", "secret")
    assert server.key() == "secret"
    with pytest.raises(CatalogError, match=r"cannot be read: .*No such file"):
        ExternalServer(uri="https://tiled.example", key_file=str(tmp_path / "none")).key()


def test_a_wrong_key_is_named_without_being_told(data_dir, elsewhere, tmp_path):
    directory = DataDirectory.at(data_dir)
    directory.create()
    wrong = tmp_path / "key"
    wrong.write_text("f00d")
    ExternalServer(uri=elsewhere.uri, key_file=str(wrong)).store(directory)
    assert "f00d" not in directory.external_file.read_text()
    with pytest.raises(
        KeyRejected, match=rf"does not accept the key in {wrong}. Ask who runs {elsewhere.uri}"
    ) as caught:
        connect(directory, elsewhere.uri, 5.0)
    assert "f00d" not in str(caught.value)


def test_a_damaged_choice_of_server_is_named(data_dir):
    directory = DataDirectory.at(data_dir)
    directory.create()
    directory.external_file.write_text(json.dumps({"address": "x"}))
    with pytest.raises(CatalogError, match=r"external.json does not describe a server"):
        ExternalServer.read(directory)


def test_a_refusing_server_is_told_once(data_dir, monkeypatch):
    monkeypatch.setattr("catalog.session.start_daemon_if_missing", lambda _: None)
    monkeypatch.setattr("catalog.session.WATCH_INTERVAL_S", 0.01)
    told = []
    with CatalogSession(data_dir, on_trouble=told.append) as session:
        state = CatalogState(phase="ready", url="http://127.0.0.1:9", daemon_pid=1, problem="it answers with an error.")
        state.write(session.directory)
        wait_until(lambda: told, "the user to be told", 10.0)
        looked = threading.Event()
        monkeypatch.setattr(session, "_tell_of_trouble", _then(session._tell_of_trouble, looked.set))
        assert looked.wait(10.0)
    (error,) = told
    assert isinstance(error, CatalogRefuses)
    assert str(error).startswith("The catalog's server takes no runs at present: it answers with an error. Runs are")


def _then(first, second):
    def both(*arguments):
        first(*arguments)
        second()

    return both


@pytest.mark.parametrize("uri", ["https://tiled.example/?api_key=f00d", "https://me:f00d@tiled.example"])
def test_an_address_that_holds_a_secret_is_refused_without_telling_it(uri):
    with pytest.raises(CatalogError, match=r"tiled.example holds more than the address. .* name a file") as caught:
        ExternalServer(uri=uri)
    assert "f00d" not in str(caught.value)
