"""One data directory with a running catalog for all tests of sessions: a server takes seconds to start."""

import os
import pty
import subprocess
import sys
import tempfile
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog import SessionLease, shut_down
from catalog.client import wait_for_server
from catalog.launch import start_daemon_if_missing

HOLD_PORT = """
import serial, sys
port = serial.Serial(sys.argv[1], exclusive=True)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session", autouse=True)
def own_control_directory() -> Iterator[None]:
    """Keep other programs of this user from asking the sessions of the tests how they are."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("profiles") / "data"
    with SessionLease(directory) as lease:
        start_daemon_if_missing(lease.directory)
        wait_for_server(lease.directory, timeout=150)
        yield directory
    shut_down(directory, timeout=60)


@pytest.fixture
def silent_port() -> Iterator[str]:
    """Return a port on which nobody answers."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield os.ttyname(slave)
    os.close(master)
    os.close(slave)


@pytest.fixture
def garbage_port() -> Iterator[str]:
    """Return a port that answers everything with what no instrument says."""
    master, slave = pty.openpty()
    tty.setraw(slave)

    def answer() -> None:
        while b"\x04" not in os.read(master, 100):
            os.write(master, b"\xff\x00hello\r\n")

    answering = threading.Thread(target=answer)
    answering.start()
    yield os.ttyname(slave)
    os.write(slave, b"\x04")
    answering.join()
    os.close(master)
    os.close(slave)


@pytest.fixture
def used_port(silent_port: str) -> Iterator[str]:
    """Return a port that another process has open."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_PORT, silent_port], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        yield silent_port
        assert holder.stdin is not None
        holder.stdin.close()


@pytest.fixture
def tandem() -> Callable[..., list[str]]:
    """Return the command line of `tandem` with the given arguments, run by this interpreter."""

    def command(*arguments: object) -> list[str]:
        return [sys.executable, "-c", "from profiles.cli import main; main()", *map(str, arguments)]

    return command
