"""Speed of the shared wires beside their peers, in one run.

    python -m benchmarks.wires [--quick] [--output FILE]

Measured: the uncontended arbiter, exchanges on a pty (blocking and from asyncio), what log and statistics cost, and how
much of a 9600-baud line four contending owners use. VISA has :mod:`benchmarks.visa`. Peers that are not installed
(``pip install -e .[benchmarks]``) are left out and named.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import select
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import serial

from benchmarks.harness import emit, interleave, pin, ratio, summary, timed
from benchmarks.pty_instrument import instruments
from coexistence import Arbiter, SharedSerialPort
from coexistence.wire import Wire
from simulators import SimulatorProcess

QUESTION = b"MEAS?12345\n"


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def acquire_uncontended(rounds: int) -> dict[str, Any]:
    """Acquire and release with nobody else there, against plain locks."""
    arbiter = Arbiter("benchmark", order=(0, "benchmark"))
    rlock = threading.RLock()
    alock = asyncio.Lock()
    inner = 50

    def ours() -> None:
        with arbiter.acquire("owner"):
            pass

    def plain() -> None:
        with rlock:
            pass

    async def ours_async() -> None:
        async with arbiter.acquire("owner"):
            pass

    async def plain_async() -> None:
        async with alock:
            pass

    blocking: dict[str, Callable[[], None]] = {"tandem": ours, "threading.RLock": plain}
    tasks: dict[str, Callable[[], Awaitable[None]]] = {"tandem": ours_async, "asyncio.Lock": plain_async}
    if _installed("aiologic"):
        import aiologic

        theirs_lock = aiologic.Lock()

        def theirs() -> None:
            with theirs_lock:
                pass

        async def theirs_async() -> None:
            async with theirs_lock:
                pass

        blocking["aiologic.Lock"] = theirs
        tasks["aiologic.Lock"] = theirs_async

    results = interleave(rounds, {name: partial(timed, function, inner) for name, function in blocking.items()})
    loop = asyncio.new_event_loop()

    async def repeat(function: Callable[[], Awaitable[None]]) -> float:
        started = time.perf_counter()
        for _ in range(inner):
            await function()
        return (time.perf_counter() - started) / inner

    def measure(function: Callable[[], Awaitable[None]]) -> float:
        return loop.run_until_complete(repeat(function))

    async_results = interleave(rounds, {name: partial(measure, function) for name, function in tasks.items()})
    loop.close()
    return {
        "blocking_us": {name: summary(values) for name, values in results.items()},
        "asyncio_us": {name: summary(values) for name, values in async_results.items()},
        "blocking_over_aiologic": ratio(results["tandem"], results["aiologic.Lock"])
        if "aiologic.Lock" in results
        else None,
        "asyncio_over_aiologic": ratio(async_results["tandem"], async_results["aiologic.Lock"])
        if "aiologic.Lock" in async_results
        else None,
    }


def _raw_exchange(descriptor: int) -> None:
    os.write(descriptor, QUESTION)
    answer = b""
    while not answer.endswith(b"\n"):
        select.select([descriptor], [], [], 1.0)
        answer += os.read(descriptor, 4096)


class _LockedPyserial:
    """What most labs write: pyserial, a lock, ``read_until``."""

    def __init__(self, path: str) -> None:
        self.port = serial.Serial(path, timeout=1.0)
        self.lock = threading.RLock()

    def query(self, question: bytes) -> bytes:
        with self.lock:
            self.port.write(question)
            return bytes(self.port.read_until(b"\n"))


def exchanges(rounds: int) -> dict[str, Any]:
    """One question at a time on a pty, from a thread and from a task."""
    inner = 50
    with contextlib.ExitStack() as stack:
        paths = stack.enter_context(instruments(5))
        pin(0)
        shared = stack.enter_context(SharedSerialPort(paths[0]))
        locked = _LockedPyserial(paths[1])
        stack.callback(locked.port.close)
        raw = os.open(paths[2], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        stack.callback(os.close, raw)
        measures: dict[str, Callable[[], float]] = {
            "raw os.write/select/os.read": lambda: timed(lambda: _raw_exchange(raw), inner),
            "tandem": lambda: timed(lambda: shared.query(QUESTION, owner="benchmark"), inner),
            "pyserial + RLock + read_until": lambda: timed(lambda: locked.query(QUESTION), inner),
        }
        if _installed("serialx"):
            import serialx

            theirs: Any = serialx.Serial(paths[3], 9600)  # type: ignore[abstract]
            theirs.open()
            stack.callback(theirs.close)
            theirs_lock = threading.RLock()

            def serialx_query() -> None:
                with theirs_lock:
                    theirs.write(QUESTION)
                    theirs.readline()

            measures["serialx + RLock"] = lambda: timed(serialx_query, inner)
        if _installed("frappy"):
            measures |= _frappy(paths[4], inner, stack)
        blocking = interleave(rounds, measures)

        loop = asyncio.new_event_loop()
        stack.callback(loop.close)

        def from_asyncio(depth: int) -> float:
            async def ask(number: int) -> None:
                for _ in range(number):
                    await shared.query_async(QUESTION, owner="benchmark", timeout=5.0)

            async def run() -> float:
                started = time.perf_counter()
                await asyncio.gather(*[ask(inner) for _ in range(depth)])
                return (time.perf_counter() - started) / (inner * depth)

            return loop.run_until_complete(run())

        def to_thread() -> float:
            async def run() -> float:
                lock = asyncio.Lock()
                started = time.perf_counter()
                for _ in range(inner):
                    async with lock:
                        await asyncio.to_thread(locked.query, QUESTION)
                return (time.perf_counter() - started) / inner

            return loop.run_until_complete(run())

        tasks = interleave(
            rounds,
            {
                "tandem depth 1": lambda: from_asyncio(1),
                "tandem depth 8": lambda: from_asyncio(8),
                "pyserial + asyncio.Lock + to_thread": to_thread,
            },
        )
    raw_name = "raw os.write/select/os.read"
    return {
        "blocking_us": {name: summary(values) for name, values in blocking.items()},
        "asyncio_us": {name: summary(values) for name, values in tasks.items()},
        "over_raw_us": round(
            summary([a - b for a, b in zip(blocking["tandem"], blocking[raw_name], strict=True)])["median"], 2
        ),
        "over_pyserial": ratio(blocking["tandem"], blocking["pyserial + RLock + read_until"]),
        "peers_absent": [name for name in ("serialx", "frappy", "aiologic") if not _installed(name)],
    }


def _frappy(path: str, inner: int, stack: contextlib.ExitStack) -> dict[str, Callable[[], float]]:
    from frappy.lib.asynconn import AsynConn

    connection = AsynConn(f"serial://{path}?baudrate=9600", end_of_line=b"\n")
    stack.callback(connection.disconnect)
    lock = threading.RLock()

    def query() -> None:
        with lock:
            connection.flush_recv()
            connection.send(QUESTION)
            connection.readline(1.0)

    return {"frappy-core AsynConn + RLock": lambda: timed(query, inner)}


def bookkeeping(rounds: int) -> dict[str, Any]:
    """Time what the always-on log and statistics cost each exchange."""
    wire = Wire("benchmark", order=(0, "benchmark"))
    entry = (0.0, "owner", QUESTION, QUESTION, 0.0, 1e-3, "ok")
    holds = ["owner", 0.0, 1e-3] * 1024

    def one_batch() -> float:
        recorded = timed(lambda: wire.record(entry), 1024)
        return recorded + timed(lambda: wire.arbiter._on_samples(holds), 1) / 1024  # type: ignore[misc]

    return {"per_exchange_us": summary(interleave(rounds, {"tandem": one_batch})["tandem"])}


def _meter() -> dict[str, Any]:
    wire = {"name": "meter", "kind": "serial", "baud_rate": 9600, "instruments": [{"type": "Newport1830C"}]}
    return {"seed": 1, "wires": [wire]}


def _line_share(byte_count: int, seconds: float) -> float:
    return byte_count * 10 / 9600 / seconds


def _bare_line_use(path: str, seconds: float) -> float:
    """Return the line's use by one client without any lock: what the simulated instrument itself allows."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        moved = 0
        started = time.perf_counter()
        while time.perf_counter() < started + seconds:
            moved += os.write(descriptor, b"D?\n")
            answer = b""
            while not answer.endswith(b"\n"):
                select.select([descriptor], [], [], 1.0)
                answer += os.read(descriptor, 4096)
            moved += len(answer)
        return _line_share(moved, time.perf_counter() - started)
    finally:
        os.close(descriptor)


def line_use(slices: int, seconds: float = 1.0) -> dict[str, Any]:
    """Share of a 9600-baud line's time that four contending owners, two threads and two tasks, keep busy.

    Slices of it alternate with slices of one bare client, which shows what the simulated instrument itself allows.
    """
    counts = [0, 0, 0, 0]
    with SimulatorProcess(_meter()) as simulator:
        path = simulator.ports["meter"]

        def ours() -> float:
            with SharedSerialPort(path) as port:
                return _contended_line_use(port, seconds, counts)

        shares = interleave(slices, {"tandem": ours, "bare": lambda: _bare_line_use(path, seconds)})
    return {
        "share_of_line_time": round(statistics.median(shares["tandem"]), 4),
        "bare_single_client": round(statistics.median(shares["bare"]), 4),
        "of_what_the_instrument_allows": ratio(shares["tandem"], shares["bare"]),
        "exchanges_by_owner": counts,
    }


def _contended_line_use(port: SharedSerialPort, seconds: float, counts: list[int]) -> float:
    stop = time.perf_counter() + seconds

    def thread(index: int) -> None:
        while time.perf_counter() < stop:
            port.query(b"D?\n", owner=f"owner {index}", timeout=5.0)
            counts[index] += 1

    async def task(index: int) -> None:
        while time.perf_counter() < stop:
            await port.query_async(b"D?\n", owner=f"owner {index}", timeout=5.0)
            counts[index] += 1

    async def tasks() -> None:
        await asyncio.gather(task(2), task(3))

    threads = [threading.Thread(target=thread, args=(index,)) for index in range(2)]
    started = time.perf_counter()
    for each in threads:
        each.start()
    asyncio.run(tasks())
    for each in threads:
        each.join()
    elapsed = time.perf_counter() - started
    stats = port.stats
    moved = stats.bytes_sent + stats.bytes_received + stats.exchanges  # each reply has a terminator
    return _line_share(moved, elapsed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", help="also write the JSON to this file")
    arguments = parser.parse_args()
    rounds = 40 if arguments.quick else 200
    pin(0)
    emit(
        {
            "acquire_release": acquire_uncontended(5 * rounds),
            "exchange_on_a_pty": exchanges(rounds),
            "log_and_statistics": bookkeeping(rounds),
            "line_use_9600_baud": line_use(4 if arguments.quick else 15),
        },
        arguments.output,
    )


if __name__ == "__main__":
    main()
