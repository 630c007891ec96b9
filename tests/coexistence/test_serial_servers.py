"""Serial servers on the network: RFC 2217, whose line settings and bytes go through pyserial."""

import contextlib
import select
import socket
import threading
import time

import pytest
import serial
import serial.rfc2217
from people import Person
from ptys import NEVER_S, PATIENCE_S, PtyInstrument, unanswered

from coexistence import CommandTimeout, GuardRevoked, SharedSerialPort, WireDisconnected


class PtyLine(serial.Serial):
    """A pty has no modem lines, and an RFC 2217 server reports them."""

    cts = dsr = ri = cd = property(lambda self: True)

    def _update_rts_state(self) -> None:
        pass

    def _update_dtr_state(self) -> None:
        pass

    def _update_break_state(self) -> None:
        pass


class SerialServer:
    """An RFC 2217 server in front of an instrument's port; one client at a time."""

    def __init__(self, device: str, port: int = 0) -> None:
        self.serial = PtyLine(device, timeout=0)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._stop, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def path(self) -> str:
        return f"rfc2217://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while self._stop not in select.select([self._stop, self._listener], [], [])[0]:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection, contextlib.suppress(OSError):
                self._relay(connection)

    def _relay(self, connection: socket.socket) -> None:
        class Back:
            def write(self, data: bytes) -> None:
                connection.sendall(data)

        manager = serial.rfc2217.PortManager(self.serial, Back())
        while True:
            ready, _, _ = select.select([self._stop, connection, self.serial.fileno()], [], [])
            if self._stop in ready:
                return
            if connection in ready:
                data = connection.recv(4096)
                if not data:
                    return
                self.serial.write(b"".join(manager.filter(data)))
            if self.serial.fileno() in ready:
                connection.sendall(b"".join(manager.escape(self.serial.read(4096))))

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join(5)
        for each in (self._listener, self._stop, self._wake, self.serial):
            each.close()


@pytest.fixture
def served():
    with PtyInstrument() as instrument:
        server = SerialServer(instrument.device)
        try:
            yield instrument, server
        finally:
            server.close()


def test_exchanges_go_through_an_rfc_2217_server(served):
    instrument, server = served
    with SharedSerialPort(server.path, baud_rate=19200, timeout=PATIENCE_S) as port:
        assert server.serial.baudrate == 19200
        for number in range(20):
            assert port.query(b"Q%d?\n" % number, owner="meter") == b"A%d" % number
        port.write(b"U1\n", owner="meter")
        assert port.query(b"Q1?\n", owner="meter", until=3) == b"A1\n"
        assert b"U1" in instrument.received


async def test_tasks_use_a_serial_server_too(served):
    _, server = served
    with SharedSerialPort(server.path, timeout=PATIENCE_S) as port:
        assert await port.query_async(b"Q1?\n", owner="meter") == b"A1"


def test_timeout_and_late_reply_on_a_serial_server(served, wait_for):
    instrument, server = served
    with SharedSerialPort(server.path, timeout=PATIENCE_S, late_reply_limit=30.0) as port:
        instrument.delay = lambda command: NEVER_S if command == b"Qslow?" else 0.0
        unanswered(port.query, b"Qslow?\n", owner="slow")
        following = Person(lambda: port.query(b"Qnext?\n", owner="next", timeout=20.0))
        wait_for(lambda: port.current_owner == "next")
        instrument.hurry()
        assert following.result() == b"Anext"
        assert port.stats.late_replies == 1


def test_revocation_breaks_off_an_exchange_on_a_serial_server(served, wait_for):
    instrument, server = served
    with SharedSerialPort(server.path, timeout=PATIENCE_S) as port:
        instrument.silent = True
        stuck = Person(lambda: port.query(b"Q1?\n", owner="stuck", timeout=20.0))
        wait_for(lambda: instrument.received)
        assert port.revoke("stuck")
        with pytest.raises(GuardRevoked):
            stuck.result()


def test_serial_server_that_went_away_comes_back():
    with PtyInstrument() as instrument:
        first = SerialServer(instrument.device)
        with SharedSerialPort(first.path, timeout=PATIENCE_S) as port:
            assert port.query(b"Q1?\n", owner="meter") == b"A1"
            first.close()
            with pytest.raises((WireDisconnected, CommandTimeout)):
                port.query(b"Q2?\n", owner="meter", timeout=0.3)
            second = SerialServer(instrument.device, first.port)
            try:
                deadline = time.monotonic() + 30.0
                answer = None
                while answer != b"A3" and time.monotonic() < deadline:
                    with contextlib.suppress(WireDisconnected, CommandTimeout):
                        answer = port.query(b"Q3?\n", owner="meter", timeout=2.0)
                assert answer == b"A3"
                assert port.stats.reconnects >= 1
            finally:
                port.close()
                second.close()


def test_absent_servers_are_told():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(WireDisconnected, match="opening failed"):
        SharedSerialPort(f"rfc2217://127.0.0.1:{free}")
    with pytest.raises(WireDisconnected, match="connecting failed") as caught:
        SharedSerialPort(f"socket://127.0.0.1:{free}")
    assert f"Check that 127.0.0.1 is on the network and listens on port {free}." in str(caught.value)
