"""Each message in `docs/troubleshooting.md` is the one a user gets."""

import asyncio
import os
import pty
import re
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from catalog.client import wait_for_server
from catalog.directory import DataDirectory
from catalog.errors import CatalogError
from coexistence import Arbiter, SharedSerialPort
from coexistence.errors import CoexistenceError
from coexistence.migration.cutover import switch
from profiles.migration import load_files

HOLD = (
    "import sys; from coexistence import SharedSerialPort; p = SharedSerialPort(sys.argv[1]); print(); sys.stdin.read()"
)


@pytest.fixture
def port_path() -> Iterator[str]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield os.ttyname(slave)
    for descriptor in (master, slave):
        with suppress(OSError):
            os.close(descriptor)


class Holder:
    """Somebody who holds a wire on a thread of its own until told to let go."""

    def __init__(self, acquire: Callable[[], object]) -> None:
        self._acquire = acquire
        self._has, self._let_go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        with self._acquire():  # type: ignore[attr-defined]
            self._has.set()
            self._let_go.wait(10)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._has.wait(5)

    def __exit__(self, *_: object) -> None:
        self._let_go.set()
        self._thread.join()


def acquire_timeout(path: str, _: Path) -> None:
    with closing(SharedSerialPort(path)) as port:
        waiting = threading.Thread(target=lambda: port.acquire("camera", timeout=20).__enter__().release())
        try:
            with Holder(lambda: port.acquire("alignment script")):
                waiting.start()
                wait_until(lambda: len(port.wire.arbiter))
                enter(port.acquire("power", timeout=0.2))
        finally:
            waiting.join()


def command_timeout(path: str, _: Path) -> None:
    with closing(SharedSerialPort(path)) as port:
        port.query(b"D?\n", owner="power", timeout=0.1)


def wire_in_use(path: str, _: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        try:
            SharedSerialPort(path)
        finally:
            other.stdin.close()


def wire_disconnected(_: str, __: Path) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    with closing(SharedSerialPort(os.ttyname(slave))) as port:
        os.close(slave)
        os.close(master)
        port.query(b"D?\n", owner="power", timeout=0.1)


def deadlock_detected(_: str, __: Path) -> None:
    stage, laser = (Arbiter(f"/dev/ttyUSB{n}", order=(0, str(n)), check_order=False) for n in (2, 3))
    has_laser = threading.Event()

    def align() -> None:
        with laser.acquire("alignment script"):
            has_laser.set()
            with stage.acquire("alignment script", timeout=10):
                pass

    other = threading.Thread(target=align)
    try:
        with stage.acquire("scan"):
            other.start()
            assert has_laser.wait(5)
            wait_until(lambda: len(stage))
            enter(laser.acquire("scan", timeout=5))
    finally:
        other.join()


def lock_order_violation(_: str, __: Path) -> None:
    stage, laser = (Arbiter(f"/dev/ttyUSB{n}", order=(0, str(n))) for n in (2, 3))
    with laser.acquire("scan"), stage.acquire("scan"):
        pass


def would_deadlock(path: str, _: Path) -> None:
    async def hold(has_wire: asyncio.Event) -> None:
        async with port.acquire_async("power_v4"):
            has_wire.set()
            await asyncio.sleep(10)

    async def hold_and_block() -> None:
        has_wire = asyncio.Event()
        holding = asyncio.create_task(hold(has_wire))
        await has_wire.wait()
        try:
            enter(port.acquire("my callback"))
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)

    with closing(SharedSerialPort(path)) as port:
        asyncio.run(hold_and_block())


def loop_blocked(path: str, _: Path) -> None:
    async def block() -> None:
        enter(port.acquire("my callback"))

    with closing(SharedSerialPort(path)) as port, Holder(lambda: port.acquire("alignment script")):
        asyncio.run(block())


def no_such_port(_: str, __: Path) -> None:
    SharedSerialPort("/dev/ttyUSB97")


def catalog_timeout(_: str, folder: Path) -> None:
    directory = DataDirectory.at(folder / "tandem-data")
    directory.create()
    wait_for_server(directory, timeout=0)


def cannot_switch(_: str, folder: Path) -> None:
    bench = folder / "bench.toml"
    bench.write_text('[[v4.instruments]]\nid = "power"\ntype = "Newport1830C"\nserial_port = "/dev/ttyS0"\n')
    switch([bench], "power", "v4", load_files)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def enter(guard: object) -> None:
    with guard:  # type: ignore[attr-defined]
        raise AssertionError("nobody should have got this wire")


TROUBLE = {
    "AcquireTimeout": acquire_timeout,
    "CommandTimeout": command_timeout,
    "WireInUse": wire_in_use,
    "WireDisconnected": wire_disconnected,
    "WireDisconnected (no such port)": no_such_port,
    "DeadlockDetected": deadlock_detected,
    "LockOrderViolation": lock_order_violation,
    "WouldDeadlock": would_deadlock,
    "LoopBlocked": loop_blocked,
    "CatalogTimeout": catalog_timeout,
    "CannotSwitch": cannot_switch,
}


def shown_messages(repository: Path) -> dict[str, str]:
    page = (repository / "docs" / "troubleshooting.md").read_text()
    found = re.findall(r"^```text\n(\w+(?: \([\w ]+\))?): (.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    return dict(found)


def normal(message: str) -> str:
    message = re.sub(r"Present ports: .*|Connect the adapter.*", "PORTS", message.partition("\nThe log ends")[0])
    message = re.sub(r"(/[\w.-]+)+(?<!\.)", "PATH", message)
    return " ".join(re.sub(r"\d[\d.]*(?<!\.)", "#", message).split())


def test_the_page_has_every_message(repository: Path):
    assert set(shown_messages(repository)) == set(TROUBLE)


@pytest.mark.parametrize("name", TROUBLE)
def test_the_message_on_the_page_is_what_the_user_gets(name: str, port_path: str, tmp_path: Path, repository: Path):
    with pytest.raises((CoexistenceError, CatalogError)) as caught:
        TROUBLE[name](port_path, tmp_path)
    assert type(caught.value).__name__ == name.partition(" ")[0]
    assert normal(str(caught.value)) == normal(shown_messages(repository)[name])
