"""Whoever reads a run while it is written again waits for it, and never meets a part of it."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid

import httpx
import pytest
from catalog_helpers import state_of, wait_until
from tiled.client import from_uri

from catalog import CatalogTimeout
from catalog.directory import DataDirectory
from catalog.external import api_address
from catalog.rewriting import DAEMON_HEADER, PatientTransport, RewriteGate

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


class Application:
    """Answers how many requests it has had; one can be held up."""

    def __init__(self):
        self.asked = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope, receive, send):
        self.asked.append((scope["method"], scope["path"]))
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(self.asked)})


def browser_of(application, directory, patience_s=20.0, **options):
    transport = httpx.ASGITransport(RewriteGate(application, directory, patience_s))
    return httpx.AsyncClient(transport=transport, base_url="http://192.0.2.1", **options)


async def test_the_server_lets_nobody_but_the_daemon_see_a_run_that_is_away(directory):
    directory.rewrite_mark("run-1").touch()
    application = Application()
    gate = browser_of(application, directory)
    page = asyncio.create_task(gate.get("/api/v1/metadata/runs/run-1/primary"))
    for other in ("/", "/api/v1/search/runs/", "/api/v1/metadata/runs/run-2"):
        assert (await gate.get(other)).status_code == 200
    daemon = await gate.post("/api/v1/metadata/runs/run-1", headers={DAEMON_HEADER: "1"})
    assert (daemon.text, page.done()) == ("4", False)
    directory.rewrite_mark("run-1").unlink()
    assert (await page).text == "5"


async def test_a_run_is_not_deleted_while_somebody_reads_it(directory):
    application = Application()
    gate = browser_of(application, directory)
    application.go_on.clear()
    page = asyncio.create_task(gate.get("/api/v1/table/partition/runs/run-1/primary/internal"))
    while not application.asked:
        await asyncio.sleep(0)
    directory.rewrite_mark("run-1").touch()
    path = "/api/v1/metadata/runs/run-1/primary"
    daemon = asyncio.create_task(gate.delete(path, headers={DAEMON_HEADER: "1"}))
    await asyncio.wait([daemon], timeout=0.1)
    assert len(application.asked) == 1
    application.go_on.set()
    assert (await page).status_code == 200
    assert (await daemon).text == "2"
    assert application.asked[-1] == ("DELETE", path)


async def test_a_run_that_ends_does_not_wait_for_those_who_read_it(directory):
    application = Application()
    gate = browser_of(application, directory)
    application.go_on.clear()
    page = asyncio.create_task(gate.get("/api/v1/table/partition/runs/run-1/primary/internal"))
    daemon = asyncio.create_task(
        gate.delete("/api/v1/stream/close/runs/run-1/primary/internal", headers={DAEMON_HEADER: "1"})
    )
    while len(application.asked) < 2:
        await asyncio.sleep(0)
    application.go_on.set()
    assert [(await page).status_code, (await daemon).status_code] == [200, 200]


async def test_the_server_tells_who_has_waited_for_too_long(directory):
    directory.rewrite_mark("run-1").touch()
    gate = browser_of(Application(), directory, patience_s=0.1)
    reply = await gate.get("/api/v1/metadata/runs/run-1")
    assert (reply.status_code, reply.text) == (503, "Run run-1 is being written to the catalog again: try again.")
    directory.delivery_problem("run-1").write_text("refused\n")
    assert (await gate.get("/api/v1/metadata/runs/run-1")).status_code == 200


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
    # A client that knows nothing of this package, as the web page does not.
    plain = from_uri(api_address(state_of(served).url), api_key=served.directory.read_key())["runs"]

    def rows(catalog=catalog):
        return len(catalog[run]["primary"].base["internal"].read(["seq_num"]))

    measure([])
    wait_until(lambda: run in catalog and "primary" in catalog[run], "the stream")
    wait_until(lambda: "internal" in catalog[run]["primary"].base and rows() == ROWS, "the first rows")
    stop, failures = threading.Event(), []
    seen = {"ours": ROWS, "plain": ROWS}

    def read(name, catalog):
        try:
            while not stop.is_set():
                now = rows(catalog)
                assert now >= seen[name]
                seen[name] = now
        except BaseException as error:
            failures.append((name, error))

    readers = [threading.Thread(target=read, args=reader) for reader in zip(seen, (catalog, plain), strict=True)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, COLUMNS + 1):
            measure(columns[:number])
            wait_until(lambda: failures or set(seen.values()) == {emitted}, "the rows")
    finally:
        stop.set()
        for reader in readers:
            reader.join(60.0)
        emit("stop", {"uid": str(uuid.uuid4()), "run_start": run, "time": time.time(), "exit_status": "success"})
    assert failures == []
    served.wait_delivered(run)
    log = served.directory.daemon_log.read_text()
    assert log.count(f"Run {run} is written again") == COLUMNS
    assert not served.directory.rewrite_mark(run).exists()
