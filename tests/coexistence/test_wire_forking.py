"""A forked child leaves its parent's wires alone: two processes on one line would take each other's replies."""

import contextlib
import fcntl
import os
import struct
import sys
from collections.abc import Callable, Iterator

import pytest
from ptys import TcpInstrument, instrument_and_port

from coexistence import CoexistenceError, GuardRevoked, SharedSerialPort, WireClosed, WireInUse

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

TIOCGEXCL = 0x80045440


@contextlib.contextmanager
def child(deed: Callable[[], object]) -> Iterator[Callable[[], str]]:
    """Fork a child that does something, and lives until the end of the block; what it tells is there before that."""
    told, tell = os.pipe()
    go, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = f"returned {deed()!r}"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(tell, text.encode())
        os.close(let_go)
        os.read(go, 1)
        os._exit(0)
    os.close(tell)
    try:
        yield lambda: os.read(told, 10_000).decode()
    finally:
        for descriptor in (let_go, go, told):
            os.close(descriptor)
        os.waitpid(pid, 0)


def in_child(deed: Callable[[], object]) -> str:
    with child(deed) as told:
        return told()


def test_child_does_not_talk_on_its_parents_wire(port, instrument):
    port.query(b"Q1?\n", owner="parent")
    said = in_child(lambda: port.query(b"Q2?\n", owner="child", timeout=0.5))
    assert said == (
        f"{WireClosed.__name__}: {port.path} ('child') is that of process {os.getpid()}, from which this one was "
        "forked. Open it in one process only."
    )
    assert port.query(b"Q3?\n", owner="parent") == b"A3"
    assert [entry.owner for entry in port.log] == ["parent", "parent"]


def test_child_of_a_holder_does_not_hold(port):
    with port.acquire("parent") as guard:
        assert in_child(lambda: guard.query(b"Q1?\n", timeout=0.5)).startswith(GuardRevoked.__name__)
        assert guard.query(b"Q2?\n") == b"A2"


def test_child_that_leaves_its_parents_block_changes_nothing_for_the_parent(port):
    def leave() -> None:
        with port.acquire("child"):
            pass

    with port.acquire("parent"):
        said = in_child(leave)
    assert said.startswith(WireClosed.__name__)
    assert port.query(b"Q1?\n", owner="parent") == b"A1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a terminal is exclusive")
def test_child_that_closes_the_port_does_not_open_it_to_others(port):
    assert in_child(port.close) == "returned None"
    answer = fcntl.ioctl(port._transport._descriptor, TIOCGEXCL, struct.pack("i", 0))
    assert struct.unpack("i", answer)[0] == 1
    assert port.query(b"Q1?\n", owner="parent") == b"A1"


def test_port_can_be_opened_again_although_a_child_lives_on():
    with instrument_and_port() as (instrument, port), child(lambda: None) as told:
        assert told() == "returned None"
        port.close()
        with SharedSerialPort(instrument.path) as again:
            assert again.query(b"Q1?\n", owner="parent") == b"A1"


def test_child_cannot_open_what_its_parent_has(port):
    def open_again() -> None:
        SharedSerialPort(port.path)

    said = in_child(open_again)
    assert said.startswith(WireInUse.__name__)
    assert str(os.getpid()) in said


def test_childs_end_leaves_a_connection_over_the_network_alone():
    with TcpInstrument() as instrument, SharedSerialPort(f"socket://127.0.0.1:{instrument.port}") as port:
        assert in_child(port.close) == "returned None"
        assert port.query(b"Q1?\n", owner="parent") == b"A1"


def test_wires_that_were_busy_when_the_process_was_forked_do_not_hang_the_child(port):
    arbiter = port.wire.arbiter
    with arbiter._mutex, port._link_lock, port.wire.exchange_lock:
        said = in_child(lambda: port.query(b"Q1?\n", owner="child", timeout=0.5))
    assert said.startswith(WireClosed.__name__)
    assert issubclass(WireClosed, CoexistenceError)
