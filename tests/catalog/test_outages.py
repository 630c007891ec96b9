"""Whoever reads while the server goes away waits for one that comes back, and is told of one that does not."""

from __future__ import annotations

import httpx
import pytest

from catalog import CatalogTimeout, CatalogUnavailable, KeyRejected, outages
from catalog.directory import CatalogState, DataDirectory
from catalog.external import ExternalServer
from catalog.outages import OutageTransport


class Server(httpx.BaseTransport):
    """Answers with what it was made of, one after the other: errors to raise, or statuses."""

    def __init__(self, *answers: type[httpx.TransportError] | int) -> None:
        self.answers = list(answers)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            return httpx.Response(answer)
        raise answer("http://127.0.0.1/?api_key=5ec2e7")


@pytest.fixture
def directory(data_dir, monkeypatch):
    monkeypatch.setattr(outages, "POLL_INTERVAL_S", 0.0)
    monkeypatch.setattr(outages, "daemon_expected", lambda directory: True)
    directory = DataDirectory.at(data_dir)
    directory.create()
    return directory


def client_of(server: Server, directory: DataDirectory) -> httpx.Client:
    return httpx.Client(transport=OutageTransport(server, directory), base_url="http://test")


def test_a_server_that_is_started_again_is_waited_for(directory):
    server = Server(httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError, 200)
    assert client_of(server, directory).get("/").status_code == 200


def test_what_changes_something_is_not_asked_for_twice(directory):
    with pytest.raises(CatalogUnavailable, match="look whether it was done before you repeat it"):
        client_of(Server(httpx.ReadError, 200), directory).patch("/")
    assert client_of(Server(httpx.ConnectError, 200), directory).patch("/").status_code == 200  # was never sent


def test_a_server_that_was_stopped_is_told_with_what_to_do(directory, monkeypatch):
    monkeypatch.setattr(outages, "daemon_expected", lambda directory: False)
    with pytest.raises(CatalogUnavailable) as caught:
        client_of(Server(httpx.ConnectError), directory).get("/")
    assert str(caught.value) == (
        f"The catalog of {directory.root} has been stopped: the session that held it is closed. Open it again with "
        f'catalog.open_catalog("{directory.root}"); runs taken from it before must be asked for again, too.'
    )


def test_a_server_that_does_not_start_or_stays_away_is_told(directory, monkeypatch):
    CatalogState(phase="failed", url="http://127.0.0.1:1", daemon_pid=1, problem="It is broken.").write(directory)
    with pytest.raises(CatalogUnavailable, match=r"The catalog's server does not start\. It is broken\."):
        client_of(Server(httpx.ConnectError), directory).get("/")
    CatalogState(phase="restarting", url="http://127.0.0.1:1", daemon_pid=1).write(directory)
    monkeypatch.setattr(outages, "PATIENCE_S", 0.0)
    with pytest.raises(CatalogTimeout, match=r"does not answer \(ConnectError\). Nothing is lost: try again") as caught:
        client_of(Server(httpx.ConnectError), directory).get("/")
    assert "5ec2e7" not in str(caught.value)


def test_a_server_of_somebody_else_is_named(directory, monkeypatch):
    ExternalServer(uri="https://tiled.lab.example").store(directory)
    monkeypatch.setattr(outages, "PATIENCE_WITH_OTHERS_S", 0.0)
    with pytest.raises(
        CatalogUnavailable, match=r"server https://tiled\.lab\.example does not answer .*: ask who runs it"
    ):
        client_of(Server(httpx.ConnectError), directory).get("/")


def test_a_key_that_is_not_accepted_any_more_is_told(directory):
    with pytest.raises(KeyRejected, match=str(directory.key_file)):
        client_of(Server(401), directory).get("/")


def test_a_server_that_answers_nothing_but_errors_is_told_with_the_question(directory, monkeypatch):
    client = client_of(Server(500, 200, 503), directory)
    assert [client.get("/array").status_code for _ in range(3)] == [500, 200, 503]
    monkeypatch.setattr(outages, "PATIENCE_WITH_ERRORS_S", 0.0)
    with pytest.raises(CatalogUnavailable) as caught:
        client.get("/array", params={"api_key": "5ec2e7"})
    assert str(caught.value) == (
        f"The catalog's server of {directory.root} answers 503 Service Unavailable to GET /array, for 0 s by now: "
        f"look into {directory.server_log}, and try again. Nothing is lost."
    )
    ExternalServer(uri="https://tiled.lab.example").store(directory)
    with pytest.raises(CatalogUnavailable, match=r"server https://tiled\.lab\.example answers 503 .*: ask who runs it"):
        client.get("/")


def test_errors_that_were_long_ago_or_of_other_questions_do_not_count(directory, monkeypatch):
    monkeypatch.setattr(outages, "PATIENCE_WITH_ERRORS_S", 1e-9)
    client = client_of(Server(500, 200, 500, 500), directory)
    assert [client.get(path).status_code for path in ("/a", "/a", "/a", "/b")] == [500, 200, 500, 500]
