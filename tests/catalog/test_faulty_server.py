"""A server that fails, refuses, hangs or loses replies delays the catalog and costs no document."""

from __future__ import annotations

import http.server
import json
import threading
import time

import pytest
from bluesky.plans import count
from catalog_helpers import state_of, wait_until
from faulty_server import FaultyServer
from ophyd.sim import SynSignal

from catalog import Journal, find_journal
from catalog import dispatch as dispatch_module
from catalog.directory import CatalogState, DataDirectory
from catalog.dispatch import Deliveries
from catalog.external import ExternalServer, ExternalServerWatch, explain
from catalog.verify import compare_run

pytestmark = pytest.mark.server


@pytest.fixture
def det():
    return SynSignal(name="det", func=lambda: 1.5)


@pytest.fixture
def faulty(served):
    server = FaultyServer(state_of(served).url)
    yield server
    server.close()


@pytest.fixture
def journal(data_dir):
    with Journal(data_dir) as journal:
        yield journal


@pytest.fixture
def deliveries(served, faulty, data_dir, journal, monkeypatch):
    """What the daemon does, in this process: deliveries to the faulty server, with less patience."""
    monkeypatch.setattr(dispatch_module, "REPLY_TIMEOUT_S", 1.5)
    monkeypatch.setattr(dispatch_module, "LONGEST_REFUSAL_PAUSE_S", 0.3)
    monkeypatch.setattr("catalog.external.RETRY_INTERVAL_S", 0.2)
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)  # as the daemon has it
    directory = DataDirectory.at(data_dir)
    external = ExternalServer(uri=faulty.url, key_file=str(served.directory.key_file))
    external.store(directory)
    thread = Deliveries(directory, ExternalServerWatch(directory, external))
    thread.start()
    yield thread
    thread.end(10.0)
    assert not thread.is_alive()


def state(deliveries):
    found = CatalogState.read(deliveries.directory)
    assert found is not None
    return found


def assert_delivered(deliveries, served, uid):
    root = deliveries.directory.root
    wait_until(lambda: find_journal(root, uid).suffix == ".gz", f"run {uid}")
    catalog = served.catalog()
    assert list(catalog).count(uid) == 1
    assert compare_run(root, catalog[uid]) == []


def test_errors_are_told_and_waited_out(RE, deliveries, faulty, journal, served, det):
    faulty.fault = lambda method, path: 500
    RE.subscribe(journal)
    began = time.monotonic()
    (uid,) = RE(count([det], 3))
    assert time.monotonic() - began < 2.0
    wait_until(lambda: "answers with an error (500" in state(deliveries).problem, "the state to tell", 10.0)
    assert not deliveries.directory.delivery_problem(uid).exists()
    faulty.fault = lambda *_: None
    assert_delivered(deliveries, served, uid)
    wait_until(lambda: state(deliveries).problem == "", "the state to clear", 5.0)


def test_a_server_that_reads_but_does_not_write_is_told(RE, deliveries, faulty, journal, served, det):
    faulty.fault = lambda method, path: None if method == "GET" else 503
    RE.subscribe(journal)
    (uid,) = RE(count([det], 3))
    wait_until(lambda: "(503 Service Unavailable)" in state(deliveries).problem, "the state to tell", 10.0)
    assert deliveries.server.given_up
    faulty.fault = lambda *_: None
    assert_delivered(deliveries, served, uid)


def test_faults_of_every_kind_within_a_run_lose_and_double_nothing(RE, deliveries, faulty, journal, served, det):
    writes = iter(range(10**9))
    faults = {1: "lose", 3: "cut", 6: 503, 8: "hang", 10: "lose"}
    faulty.hang_s, faulty.delay_s = 2.5, 0.01
    appends = iter(["forget"])  # of rows that the server says it has taken

    def fault(method, path):
        if method == "GET":
            return None
        return faults.get(next(writes)) or (next(appends, None) if method == "PATCH" and "/internal" in path else None)

    faulty.fault = fault
    RE.subscribe(journal)
    (uid,) = RE(count([det], 5))
    assert_delivered(deliveries, served, uid)
    assert set(faulty.faults) == {*faults.values(), "forget"}


def test_a_wrong_key_is_told_and_another_one_taken(RE, deliveries, faulty, journal, served, det):
    faulty.fault = lambda *_: 401
    RE.subscribe(journal)
    (uid,) = RE(count([det], 3))
    wait_until(lambda: "does not accept the key (401" in state(deliveries).problem, "the state to tell", 10.0)
    faulty.fault = lambda *_: None
    assert_delivered(deliveries, served, uid)


def test_another_version_of_tiled_is_named(faulty):
    assert "tiled" not in explain(ValueError("cannot read this"), faulty.url)

    class About(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = json.dumps({"library_version": "0.1.0"}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), About)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = explain(ValueError("cannot read this"), f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    server.server_close()
    assert told.startswith("ValueError: cannot read this. The server has tiled 0.1.0, this computer ")
