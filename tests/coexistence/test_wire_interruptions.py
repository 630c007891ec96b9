"""A signal whose handler raises (Ctrl-C) may strike between any two steps of the main thread."""

import asyncio
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from people import Person

from coexistence import Guard
from coexistence.adoption.guards import StreamGuard
from coexistence.guard import Job
from coexistence.wire import Worker


def run(name: str) -> None:
    program = Path(__file__).with_name("interruptions.py")
    done = subprocess.run([sys.executable, str(program), name], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_no_wire_stays_held_and_no_waiter_is_lost_when_signals_strike_acquisitions():
    run("acquisitions")


@pytest.mark.parametrize("kind", ["query", "repeatable query", "transaction", "strays"])
def test_single_exchanges_never_leave_the_wire_held_nor_a_reply_to_others(kind):
    run(kind)


def test_guards_never_leave_a_reply_to_others():
    run("guards")


def test_what_a_task_asked_for_is_done_once_though_a_signal_broke_into_the_granting(port, monkeypatch, wait_for):
    granted, strikes, calls = Job.granted, [KeyboardInterrupt()], []

    def struck(job: Job[object]) -> None:
        granted(job)
        if strikes:
            raise strikes.pop()

    def function(guard: Guard) -> bytes:
        calls.append(guard)
        return guard.query(b"Q1?\n")

    with pytest.raises(KeyboardInterrupt), port.acquire("main"):
        monkeypatch.setattr(Job, "granted", struck)
        task = Person(lambda: asyncio.run(port.transact_async(function, owner="task")))
        wait_for(lambda: len(port.wire.arbiter) == 1)
    assert task.result() == b"A1"
    assert asyncio.run(port.query_async(b"Q2?\n", owner="next")) == b"A2"
    assert len(calls) == 1


def test_hold_ends_though_a_signal_kept_its_work_from_the_worker(port, monkeypatch):
    put, strikes = Worker.put, [KeyboardInterrupt()]

    def struck(worker: Worker, step: object) -> None:
        if strikes:
            raise strikes.pop()
        put(worker, step)

    async def work() -> None:
        async with port.acquire_async("struck") as guard:
            with pytest.raises(KeyboardInterrupt):
                await guard.query_async(b"Q1?\n")

    monkeypatch.setattr(Worker, "put", struck)
    asyncio.run(work())
    assert port.query(b"Q2?\n", owner="next") == b"A2"


@pytest.mark.parametrize("of", ["guard", "driver"])
def test_block_that_goes_on_after_ctrl_c_in_an_exchange_keeps_nobody_from_the_wire(port, of):
    def strike(*_: object) -> None:
        port.wire.exchange_lock.acquire()
        raise KeyboardInterrupt

    with port.acquire("struck") as guard, StreamGuard(port, "struck") as stream:
        with pytest.raises(KeyboardInterrupt):
            guard._operate(strike) if of == "guard" else stream.with_hardware(strike)
        assert guard.query(b"Q1?\n") == b"A1"
    assert Person(lambda: port.query(b"Q2?\n", owner="next")).result() == b"A2"


def test_free_wire_is_taken_and_released_without_any_system_call(tmp_path):
    """Counted by strace between two markers, with and without the acquisitions."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    program = textwrap.dedent(
        """
        import os
        from coexistence import Arbiter

        arbiter = Arbiter("wire")

        def take():
            for _ in range(2000):
                with arbiter.acquire("meter"):
                    pass

        take()
        os.stat("/begin") if os.path.lexists("/begin") else None
        take()
        os.path.lexists("/end")
        """
    )
    trace = tmp_path / "trace"
    done = subprocess.run(
        [strace, "-f", "-o", str(trace), sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"strace cannot trace here: {done.stderr[-200:]}")
    lines = trace.read_text().splitlines()
    begin = max(number for number, line in enumerate(lines) if '"/begin"' in line)
    end = max(number for number, line in enumerate(lines) if '"/end"' in line)
    between = lines[begin + 1 : end]
    # the statistics of 2000 holds may need memory now and then
    assert len(between) <= 20, between[:40]
    assert not [line for line in between if "futex" in line]
