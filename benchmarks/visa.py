"""Speed of VISA sessions beside their peers, in one run.

    python -m benchmarks.visa [--quick] [--output FILE]

Measured on a TCP socket against a process that answers at once: exchanges blocking and from asyncio at depths 1, 8 and
100, beside bare PyVISA-py and PyVISA-py under a ``threading.RLock``; on an in-process instrument, whose answers cost
nothing: commands a second and the time a command waits in line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import select
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.harness import emit, interleave, pin, ratio, summary, timed
from coexistence import Channel, VisaSessionHandle, VisaSessionManager
from coexistence.transport import Ending, Transport
from coexistence.visa_session import VisaSession
from coexistence.wire import Wire

QUESTION = "MEAS:VOLT:DC?"
DEPTHS = (1, 8, 100)


class InProcessInstrument(Transport):
    """Answers each command within the process, without any system call."""

    def __init__(self) -> None:
        super().__init__("in-process instrument")
        self._replies: list[bytes] = []

    def open(self) -> None:
        self._replies.clear()

    def close(self) -> None:
        pass

    def send(self, data: bytes, deadline: float) -> int:  # noqa: ARG002
        self._replies.append(b"R" + data[:-1])
        return len(data)

    def receive(self, ending: Ending, deadline: float) -> bytes | None:  # noqa: ARG002
        return self._replies.pop(0) if self._replies else None

    def unread(self) -> bytes:
        return b""

    def take_lines(self, terminator: bytes) -> list[bytes]:  # noqa: ARG002
        return []

    def interrupt(self) -> None:
        pass


@contextlib.contextmanager
def tcp_instrument() -> Iterator[int]:
    """Start a process that answers each line at once; yield its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.visa", "--answer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(5)
        process.stdout.close()


def answer() -> None:
    """Serve any number of connections until standard input ends."""
    pin(1)
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    poller = select.poll()
    poller.register(0, select.POLLIN)
    poller.register(server, select.POLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                return
            if descriptor == server.fileno():
                connection, _ = server.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poller.register(connection, select.POLLIN)
                continue
            data = connections[descriptor].recv(4096)
            if data:
                connections[descriptor].sendall(b"R" + data)
            else:
                poller.unregister(descriptor)
                connections.pop(descriptor).close()


async def _ask(handle: VisaSessionHandle, depth: int, number: int) -> float:
    """Return the seconds for each of ``number`` queries, ``depth`` of which are under way at any time."""
    remaining = number

    async def caller() -> None:
        nonlocal remaining
        while remaining > 0:
            remaining -= 1
            await handle.query_async(QUESTION)

    started = perf_counter()
    await asyncio.gather(*(caller() for _ in range(depth)))
    return (perf_counter() - started) / number


@contextlib.contextmanager
def _loop() -> Iterator[Callable[..., Any]]:
    with asyncio.Runner() as runner:
        yield runner.run


def _figures(results: dict[str, list[float]], peer: str) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: {"us": summary(values), "per_s": round(1.0 / statistics.median(values))}
        for name, values in results.items()
    }
    figures["speed_over_bare"] = {name: ratio(results[peer], values) for name, values in results.items()}
    return figures


def on_tcp(rounds: int, number: int) -> dict[str, Any]:
    """Exchange on a TCP socket, beside PyVISA-py alone and under a lock."""
    import pyvisa

    with tcp_instrument() as port, VisaSessionManager("@py") as visa, _loop() as run:
        name = f"TCPIP0::127.0.0.1::{port}::SOCKET"
        handle = visa.session(name, owner="benchmark")
        theirs: Any = pyvisa.ResourceManager("@py").open_resource(name, read_termination="\n", write_termination="\n")
        lock = threading.RLock()

        def locked() -> str:
            with lock:
                return str(theirs.query(QUESTION))

        measures: dict[str, Callable[[], float]] = {
            "bare pyvisa-py": partial(timed, lambda: theirs.query(QUESTION), number),
            "pyvisa-py with threading.RLock": partial(timed, locked, number),
            "tandem, blocking": partial(timed, lambda: handle.query(QUESTION), number),
        }
        for depth in DEPTHS:
            measures[f"tandem, asyncio, depth {depth}"] = lambda depth=depth: run(_ask(handle, depth, number))  # type: ignore[misc]
        results = interleave(rounds, measures)
        theirs.close()
    return _figures(results, "bare pyvisa-py")


def in_process(rounds: int, number: int) -> dict[str, Any]:
    """Exchange with an instrument that costs nothing."""
    wire = Wire("benchmark", order=(1, "benchmark"))
    channel = Channel(wire, InProcessInstrument(), terminator=b"\n", timeout=2.0)
    handle = VisaSessionHandle(VisaSession(channel, write_terminator=b"\n"), "benchmark", timeout=2.0)
    with contextlib.closing(channel), _loop() as run:
        measures: dict[str, Callable[[], float]] = {"blocking": partial(timed, lambda: handle.query(QUESTION), number)}
        for depth in DEPTHS:
            measures[f"asyncio, depth {depth}"] = lambda depth=depth: run(_ask(handle, depth, number))  # type: ignore[misc]
        results = interleave(rounds, measures)
    return {
        name: {"us": summary(values), "per_s": round(1.0 / statistics.median(values))}
        for name, values in results.items()
    }


def queue_latency(number: int) -> dict[str, Any]:
    """Tell how long commands wait in line, for several depths of the line (in microseconds)."""
    latencies: dict[str, Any] = {}
    for depth in (1, 10, 100):
        wire = Wire(f"benchmark {depth}", order=(1, "benchmark"))
        channel = Channel(wire, InProcessInstrument(), terminator=b"\n", timeout=2.0)
        handle = VisaSessionHandle(VisaSession(channel, write_terminator=b"\n"), "benchmark", timeout=2.0)
        with contextlib.closing(channel):
            asyncio.run(_ask(handle, depth, number))
            wait = channel.stats.wait
            latencies[f"depth {depth}"] = {
                name: round(seconds * 1e6, 1)
                for name, seconds in (("p50", wait.p50), ("p95", wait.p95), ("p99", wait.p99), ("max", wait.max))
            }
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds: to see that it runs")
    parser.add_argument("--output", help="also write the JSON to this file")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer()
        return
    pin(0)
    rounds, number = (5, 300) if options.quick else (30, 2000)
    emit(
        {
            "tcp_socket": on_tcp(rounds, number),
            "in_process": in_process(rounds, number),
            "in_process_queue_latency_us": queue_latency(number),
        },
        options.output,
    )


if __name__ == "__main__":
    main()
