"""A server that answers errors for a while: a proxy before a real one, which fails as it is told to."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

PASSED_ON = ("authorization", "content-type", "accept", "host", "cookie", "accept-encoding")


class FaultyServer:
    """Passes requests on to the server at ``url``, or does what ``fault(method, path)`` says.

    A fault is an HTTP status to answer with, ``"hang"`` (answer nothing for ``hang_s``), ``"cut"`` (close the
    connection at once), ``"lose"`` (have the request done, and close the connection in place of the reply),
    ``"forget"`` (say that it is done, and do nothing), or None.
    """

    def __init__(self, url: str, fault: Callable[[str, str], Any] = lambda *_: None, hang_s: float = 2.5) -> None:
        self.fault = fault
        self.hang_s = hang_s
        self.faults: Counter[Any] = Counter()
        self.delay_s = 0.0
        self._connections: set[socket.socket] = set()
        upstream = urlsplit(url).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                proxy._connections.add(self.connection)

            def finish(self) -> None:
                proxy._connections.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                fault = proxy.fault(self.command, self.path)
                if fault is not None:
                    proxy.faults[fault] += 1
                if isinstance(fault, int):
                    self.reply(fault, [("content-type", "text/plain")], b"a fault that was asked for")
                    return
                if fault == "forget":
                    self.reply(200, [("content-type", "application/json")], b"{}")
                    return
                if fault == "hang":
                    time.sleep(proxy.hang_s)
                if fault in ("hang", "cut"):
                    self.close_connection = True
                    return
                time.sleep(proxy.delay_s)
                connection = http.client.HTTPConnection(upstream, timeout=30.0)
                headers = {key: value for key, value in self.headers.items() if key.lower() in PASSED_ON}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                connection.close()
                if fault == "lose":
                    self.close_connection = True
                    return
                kept = [
                    (key, value)
                    for key, value in response.getheaders()
                    if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server")
                ]
                self.reply(response.status, kept, content)

            def reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response(status)
                for key, value in headers:
                    self.send_header(key, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="faulty server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._connections):  # those that a client keeps for its next request
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
