"""Whoever reads a run while it is written again waits for it, and never meets a part of it."""

from __future__ import annotations

import threading
import time
import uuid

import httpx
import pytest
from catalog_helpers import wait_until

from catalog import CatalogTimeout
from catalog.directory import DataDirectory
from catalog.rewriting import PatientTransport

COLUMNS = 2
ROWS = 300


@pytest.fixture
def directory(data_dir):
    directory = DataDirectory.at(data_dir)
    directory.create()
    return directory


class Server(httpx.BaseTransport):
    """Answers what it is told; what happens while it answers can be told, too."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def handle_request(self, request):
        self.asked.append(request.url.path)
        answer = self.answers.pop(0)
        return httpx.Response(answer() if callable(answer) else answer, text=str(len(self.asked)))


def client_of(server, directory, patience_s=20.0):
    return httpx.Client(transport=PatientTransport(server, directory, patience_s), base_url="http://192.0.2.1")


def test_a_request_waits_until_the_run_is_back(directory):
    directory.journal_of("run-1").touch()
    directory.rewrite_mark("run-1").touch()
    server = Server(200)
    replies = []
    ask = threading.Thread(
        target=lambda: replies.append(client_of(server, directory).get("/api/v1/metadata/runs/run-1/primary"))
    )
    ask.start()
    assert client_of(Server(404), directory).get("/api/v1/metadata/runs/run-2").status_code == 404
    assert server.asked == []
    directory.rewrite_mark("run-1").unlink()
    ask.join(20.0)
    assert [reply.status_code for reply in replies] == [200]


def test_what_a_run_lacked_while_it_was_away_is_asked_for_again(directory):
    directory.journal_of("run-1").touch()

    def goes_and_comes():
        directory.rewrite_mark("run-1").touch()
        threading.Timer(0.1, directory.rewrite_mark("run-1").unlink).start()
        return 200  # with half of its rows

    assert client_of(Server(404, 200), directory).get("/x/run-1/primary").text == "2"
    assert client_of(Server(404, 404), directory).get("/x/run-1/primary").status_code == 404  # there is no such thing
    assert client_of(Server(goes_and_comes, 200), directory).get("/x/run-1/primary").text == "2"


def test_nobody_waits_for_ever_nor_for_a_run_that_cannot_be_written(directory):
    directory.journal_of("run-1").touch()
    directory.rewrite_mark("run-1").touch()
    with pytest.raises(CatalogTimeout, match=r"Run run-1 is being written .* 0.1 s\. Nothing is lost: try again"):
        client_of(Server(), directory, patience_s=0.1).get("/x/run-1/primary")
    directory.delivery_problem("run-1").write_text("refused\n")
    assert client_of(Server(404, 404), directory).get("/x/run-1/primary").status_code == 404


@pytest.mark.server
def test_a_reader_loses_no_row_of_a_run_that_is_written_again_and_again(served):
    """Columns that begin with whole numbers and go on with fractions have their run written again, one by one."""
    run, descriptor = str(uuid.uuid4()), str(uuid.uuid4())
    emit = served.journal
    columns = [f"x{number}" for number in range(COLUMNS)]
    emit("start", {"uid": run, "time": time.time(), "plan_name": "rewritten"})
    data_keys = {column: {"source": "test", "dtype": "integer", "shape": []} for column in columns}
    about = {"run_start": run, "name": "primary", "configuration": {}, "hints": {}, "object_keys": {}}
    emit("descriptor", {"uid": descriptor, "time": time.time(), "data_keys": data_keys, **about})
    emitted = 0

    def measure(fractions):
        nonlocal emitted
        for _ in range(ROWS):
            emitted += 1
            data = {column: emitted + 0.5 * (column in fractions) for column in columns}
            data = {column: value if column in fractions else int(value) for column, value in data.items()}
            event = {"uid": f"{emitted}", "descriptor": descriptor, "seq_num": emitted, "time": time.time()}
            emit("event", {**event, "data": data, "timestamps": dict.fromkeys(columns, time.time())})

    catalog = served.catalog(wait=60.0)

    def rows():
        return len(catalog[run]["primary"].base["internal"].read(["seq_num"]))

    measure([])
    wait_until(lambda: run in catalog and "primary" in catalog[run], "the stream")
    wait_until(lambda: "internal" in catalog[run]["primary"].base and rows() == ROWS, "the first rows")
    stop, seen, failures = threading.Event(), [ROWS], []

    def read():
        try:
            while not stop.is_set():
                seen.append(rows())
                assert seen[-1] >= seen[-2]
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, COLUMNS + 1):
            measure(columns[:number])
            wait_until(lambda: failures or seen[-1] == emitted, "the rows")
    finally:
        stop.set()
        reader.join(60.0)
        emit("stop", {"uid": str(uuid.uuid4()), "run_start": run, "time": time.time(), "exit_status": "success"})
    assert failures == []
    served.wait_delivered(run)
    log = served.directory.daemon_log.read_text()
    assert log.count(f"Run {run} is written again") == COLUMNS
    assert not served.directory.rewrite_mark(run).exists()
