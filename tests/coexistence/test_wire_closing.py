"""close() ends everything in every state, and leaves no thread, task or descriptor behind."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from people import Person
from proofs import many_exchanges
from ptys import TcpInstrument, instrument_and_port

from coexistence import ConfigError, GuardRevoked, SharedSerialPort, WireClosed, WireDisconnected
from coexistence.wire import Worker


def test_idle_wire_closes_at_once_and_again(port):
    port.query(b"Q1?\n", owner="meter")
    started = time.perf_counter()
    port.close(timeout=20.0)
    port.close(timeout=20.0)
    assert time.perf_counter() - started < 10.0
    assert not port.connected


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), None, "1"])
def test_closing_within_no_time_at_all_is_refused_and_closes_nothing(port, timeout):
    with pytest.raises(ConfigError, match="timeout must be between 0 and 86400 s"):
        port.close(timeout)
    assert port.query(b"Q1?\n", owner="meter") == b"A1"


def test_closed_wire_says_so(port):
    port.close()
    with pytest.raises(WireClosed) as caught:
        port.query(b"Q1?\n", owner="meter")
    assert str(caught.value) == f"{port.path} ('meter') has been closed. Open it again before using it."
    with pytest.raises(WireClosed), port.acquire("meter"):
        pass


def test_closed_wire_says_so_to_tasks_and_starts_no_thread(port):
    async def ask():
        with pytest.raises(WireClosed):
            await port.query_async(b"Q1?\n", owner="meter")
        with pytest.raises(WireClosed):
            async with port.acquire_async("meter"):
                pass

    port.close()
    asyncio.run(ask())


def test_closing_breaks_off_the_exchange_on_the_wire(instrument, port, wait_for):
    instrument.silent = True
    asking = Person(lambda: port.query(b"Q1?\n", owner="meter", timeout=30.0))
    wait_for(lambda: instrument.received)
    started = time.perf_counter()
    port.close(timeout=20.0)
    assert time.perf_counter() - started < 10.0
    with pytest.raises((WireClosed, GuardRevoked)):
        asking.result()


def test_closing_breaks_off_a_tasks_exchange_and_those_in_line(instrument, port):
    instrument.silent = True

    async def ask():
        asking = [asyncio.create_task(port.query_async(b"Q1?\n", owner=f"{n}", timeout=30.0)) for n in range(3)]
        while not instrument.received:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(port.close)
        return await asyncio.gather(*asking, return_exceptions=True)

    outcomes = asyncio.run(ask())
    assert all(isinstance(outcome, WireClosed | GuardRevoked) for outcome in outcomes), outcomes


def test_closing_on_the_loop_itself_ends_tasks_too(instrument, port):
    instrument.silent = True

    async def ask():
        asking = asyncio.create_task(port.query_async(b"Q1?\n", owner="meter", timeout=30.0))
        while not instrument.received:
            await asyncio.sleep(0.001)
        port.close()
        with pytest.raises((WireClosed, GuardRevoked)):
            await asking

    asyncio.run(ask())


def test_closing_inside_a_block_is_told_at_the_next_use(port):
    with port.acquire("meter") as guard:
        port.close()
        with pytest.raises(GuardRevoked, match="the wire was closed"):
            guard.query(b"Q1?\n")


def test_closing_from_the_wires_own_worker(port):
    async def close_there():
        with contextlib.suppress(WireClosed, GuardRevoked):
            await port.transact_async(lambda guard: port.close(), owner="meter")

    asyncio.run(close_there())
    assert not port.connected


def test_close_that_ctrl_c_broke_into_can_be_done_again(instrument, port, wait_for):
    busy, go_on = threading.Event(), threading.Event()

    def accept(line):
        busy.set()
        return go_on.wait(20.0)

    asking = Person(lambda: port.query(b"Q1?\n", owner="busy", accept=accept, timeout=20.0))
    assert busy.wait(5.0)

    def strike():
        wait_for(lambda: port.wire.closed)
        time.sleep(0.1)  # by now it waits for the exchange to end
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    ctrl_c = Person(strike)
    with pytest.raises(KeyboardInterrupt):
        port.close(timeout=20.0)
    ctrl_c.result()
    go_on.set()
    with contextlib.suppress(WireClosed, GuardRevoked):
        asking.result()
    port.close()
    with SharedSerialPort(instrument.path) as again:
        assert again.query(b"Q2?\n", owner="meter") == b"A2"


def test_closing_by_many_threads_at_once(port):
    people = [Person(port.close) for _ in range(5)]
    for person in people:
        person.result()


def test_closing_while_a_socket_cannot_be_reached_leaves_nothing_behind(no_descriptor_left_behind):
    with TcpInstrument() as instrument:
        port = SharedSerialPort(instrument.path, timeout=5.0)
        port.query(b"Q1?\n", owner="meter")
    with pytest.raises(WireDisconnected):
        port.query(b"Q2?\n", owner="meter", timeout=0.2)
    time.sleep(0.55)  # an attempt to reopen is under way or has just failed
    port.close()


def test_port_is_closed_by_its_with_block(instrument):
    with SharedSerialPort(instrument.path) as port:
        pass
    with pytest.raises(WireClosed):
        port.query(b"Q1?\n", owner="meter")


def test_many_exchanges_leave_memory_threads_and_descriptors_as_they_were():
    grown = many_exchanges(5000)
    assert grown["threads"] == 0
    assert grown["descriptors"] == 0
    assert grown["memory_bytes"] < 2_000_000


PROGRAM = """
    import signal, sys, threading, time
    sys.path.insert(0, {here!r})
    from ptys import PtyInstrument
    from coexistence import SharedSerialPort

    with PtyInstrument() as instrument:
        with SharedSerialPort(instrument.path, late_reply_limit=0.1) as port:
            other = threading.Event()
            {preparation}

            def tell():
                while not ({waiting}):
                    time.sleep(0.001)
                print("ready", flush=True)

            threading.Thread(target=tell, daemon=True).start()
            try:
                {deed}
            except KeyboardInterrupt:
                instrument.silent = False
                other.set()
                assert port.query(b"Qafter?\\n", owner="after", timeout=20.0) == b"Aafter"
                assert port.current_owner is None
                print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("preparation", "waiting", "deed"),
    [
        ("instrument.silent = True", "instrument.received", 'port.query(b"Q1?\\n", owner="meter", timeout=30.0)'),
        (
            "taken = threading.Event(); threading.Thread(target=lambda: port.transact(lambda guard: (taken.set(), "
            'other.wait(30.0)), owner="other", timeout=5.0), daemon=True).start(); assert taken.wait(10.0)',
            "len(port.wire.arbiter)",
            'port.query(b"Q1?\\n", owner="meter", timeout=30.0)',
        ),
        (
            "pass",
            "port.current_owner == 'meter'",
            'port.transact(lambda guard: time.sleep(30), owner="meter", timeout=30.0)',
        ),
    ],
    ids=["on the wire", "in line", "inside a block"],
)
def test_ctrl_c_ends_the_wait_and_leaves_the_wire_usable(preparation, waiting, deed):
    here = os.path.dirname(__file__)
    program = textwrap.dedent(PROGRAM).format(here=here, preparation=preparation, waiting=waiting, deed=deed)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.05)
        started = time.perf_counter()
        for _ in range(4):
            child.send_signal(signal.SIGINT)
            # The system may give it to another thread while the main one stands still, and nothing wakes that then.
            if select.select([child.stdout], [], [], 5.0)[0]:
                break
        output = child.stdout.read()
        assert child.wait(20) == 0
        assert output == "interrupted\n"
        assert time.perf_counter() - started < 25.0


def test_interpreter_ends_although_a_wire_was_left_open():
    program = textwrap.dedent(
        f"""
        import asyncio, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from ptys import PtyInstrument
        from coexistence import SharedSerialPort
        instrument = PtyInstrument()
        port = SharedSerialPort(instrument.path)
        assert asyncio.run(port.query_async(b"Q1?\\n", owner="meter")) == b"A1"
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_worker_starts_with_the_first_task_only():
    with instrument_and_port() as (_, port):
        before = threading.active_count()
        port.query(b"Q1?\n", owner="meter")
        assert threading.active_count() == before
        asyncio.run(port.query_async(b"Q1?\n", owner="meter"))
        assert threading.active_count() == before + 1


def test_workers_whose_place_was_taken_end_with_the_last_one(wait_for):
    worker = Worker("renewed")
    for _ in range(30):
        done = threading.Event()
        worker.put(done.set)
        assert done.wait(5.0)
        worker.renew()
        worker.put(threading.Event().set)
    worker.stop(2.0)
    wait_for(lambda: not [each for each in threading.enumerate() if each.name == "wire renewed"])


def test_what_was_given_to_a_worker_whose_place_was_taken_stays_in_its_order(monkeypatch, wait_for):
    worker = Worker("renewed")
    begun = threading.Event()
    worker.put(begun.set)
    assert begun.wait(5.0)
    former = worker.thread
    worker.renew()
    done = []
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "thread", None)  # the new thread is not quick enough
        for number in range(5):
            worker.put(lambda number=number: done.append(number))
        former.join(5.0)
        assert not former.is_alive()
    worker.put(lambda: done.append(5))
    wait_for(lambda: len(done) == 6)
    assert done == [0, 1, 2, 3, 4, 5]
    worker.stop(2.0)


@pytest.mark.parametrize("where", ["link", "search", "wake", "arbiter", "worker"])
def test_signal_handler_may_close_a_wire_wherever_it_strikes(port, where):
    asyncio.run(port.query_async(b"Q1?\n", owner="meter"))
    locks = {
        "link": port._link_lock,
        "search": port._search_lock,
        "wake": port._transport._wake_lock,
        "arbiter": port.wire.arbiter._mutex,
        "worker": port.wire.worker._starting,
    }

    def strike() -> None:
        with locks[where]:
            port.close()

    Person(strike).result()
    assert port.wire.released
