"""Several exchanges under one hold, from threads and tasks, and what the wire's worker does for tasks."""

import asyncio
import threading
import time

import pytest
from people import Holder, Person
from ptys import PtyInstrument, instrument_and_port

from coexistence import (
    AcquireTimeout,
    CommandTimeout,
    Connection,
    DeadlockDetected,
    GuardNotHeld,
    GuardRevoked,
    LockOrderViolation,
    LoopBlocked,
    Rank,
    Reply,
    SharedSerialPort,
    WireDisconnected,
    WouldDeadlock,
)
from coexistence.parties import waiting_parties


def test_guard_writes_reads_and_queries(instrument, port):
    with port.acquire("power_v2", timeout=2.0) as guard:
        assert guard.owner == "power_v2"
        assert guard.write(b"U1\n") == 3
        assert guard.query(b"Q1?\n") == b"A1"
        guard.write(b"Q2?\n")
        assert guard.read_line() == b"A2"
        guard.write(b"Q34?\n")
        assert guard.read(2) == b"A3"
        assert guard.read(2) == b"4\n"
        reply = guard.exchange(b"Q5?\n")
        assert isinstance(reply, Reply)
        assert reply.data == b"A5"


def test_guard_outside_its_block_says_so(port):
    guard = port.acquire("meter")
    with pytest.raises(GuardNotHeld):
        guard.query(b"Q1?\n")
    with guard:
        pass
    with pytest.raises(GuardNotHeld):
        guard.query(b"Q1?\n")
    assert port.log == []


async def test_async_guard_does_all_that_a_blocking_one_does(port):
    async with port.acquire_async("power_v4", timeout=2.0) as guard:
        assert await guard.write_async(b"U1\n") == 3
        assert await guard.query_async(b"Q1?\n") == b"A1"
        await guard.write_async(b"Q2?\n")
        assert await guard.read_line_async() == b"A2"
        await guard.write_async(b"Q34?\n")
        assert await guard.read_async(4) == b"A34\n"
        assert await guard.run_async(lambda held: held.query(b"Q5?\n")) == b"A5"
    assert port.current_owner is None


async def test_async_guard_keeps_others_out_between_its_exchanges(port):
    async with port.acquire_async("first") as guard:
        await guard.query_async(b"Q1?\n")
        other = asyncio.create_task(port.query_async(b"Q2?\n", owner="second"))
        await asyncio.sleep(0.02)
        assert not other.done()
        await guard.query_async(b"Q3?\n")
    assert await other == b"A2"
    assert [entry.sent for entry in port.log] == [b"Q1?\n", b"Q3?\n", b"Q2?\n"]


async def test_task_may_query_the_port_it_holds(port):
    async with port.acquire_async("meter"):
        assert await port.query_async(b"Q1?\n", owner="meter") == b"A1"
        assert port.query(b"Q2?\n", owner="meter") == b"A2"


def test_thread_may_query_the_port_it_holds(port):
    with port.acquire("meter") as guard:
        assert port.query(b"Q1?\n", owner="meter") == b"A1"
        port.write(b"U1\n", owner="meter")
        assert guard.query(b"Q2?\n") == b"A2"


async def test_transaction_runs_on_the_worker_under_one_hold(port):
    def twice(guard):
        assert threading.current_thread() is not threading.main_thread()
        return guard.query(b"Q1?\n"), port.query(b"Q2?\n", owner=guard.owner)

    assert await port.transact_async(twice, owner="meter") == (b"A1", b"A2")
    assert port.stats.owners["meter"].wait.count == 1


def test_time_of_a_transaction_covers_all_of_it():
    with instrument_and_port(delay=0.05) as (_, port):

        def many(guard):
            for number in range(100):
                guard.query(b"Q%d?\n" % number, timeout=5.0)

        started = time.perf_counter()
        with pytest.raises(CommandTimeout):
            port.transact(many, owner="meter", timeout=0.2)
        assert 0.2 <= time.perf_counter() - started < 3.0  # the questions take 5 s


async def test_error_in_a_transaction_reaches_the_task(port):
    with pytest.raises(ZeroDivisionError):
        await port.transact_async(lambda guard: 1 / 0, owner="meter")
    assert await port.query_async(b"Q1?\n", owner="meter") == b"A1"


async def test_cancelled_transaction_runs_to_its_end_and_one_in_line_never_starts(port):
    ran = []
    may_end = threading.Event()

    def slow(guard):
        ran.append("slow")
        may_end.wait(5)
        guard.query(b"Q1?\n")
        ran.append("slow ended")

    first = asyncio.create_task(port.transact_async(slow, owner="first", timeout=5.0))
    while not ran:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(port.transact_async(lambda guard: ran.append("second"), owner="second", timeout=5.0))
    await asyncio.sleep(0.01)
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    may_end.set()
    assert await port.query_async(b"Q2?\n", owner="third", timeout=5.0) == b"A2"
    assert ran == ["slow", "slow ended"]


async def test_function_that_hangs_keeps_nobody_waiting_once_it_was_revoked(port):
    begun, go_on = threading.Event(), threading.Event()

    def hang(guard):
        begun.set()
        assert go_on.wait(20.0)
        with pytest.raises(GuardRevoked):
            guard.query(b"Q1?\n")
        return port.query(b"Q2?\n", owner="stuck")  # anew, and not within what others hold meanwhile

    try:
        hanging = asyncio.create_task(port.transact_async(hang, owner="stuck", timeout=20.0))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        in_line = asyncio.create_task(port.query_async(b"Q3?\n", owner="in line", timeout=5.0))
        while not len(port._arbiter):
            await asyncio.sleep(0.001)
        assert port.revoke("stuck")
        assert await in_line == b"A3"
        assert await port.query_async(b"Q4?\n", owner="meter", timeout=5.0) == b"A4"
        async with port.acquire_async("another") as guard:
            go_on.set()
            assert await guard.query_async(b"Q5?\n") == b"A5"
        assert await hanging == b"A2"
    finally:
        go_on.set()


async def test_function_that_was_revoked_before_it_began_does_not_begin(port, monkeypatch):
    steps, begun = [], []
    with monkeypatch.context() as patch:
        patch.setattr(port.wire.worker, "put", steps.append)
        running = asyncio.create_task(port.transact_async(begun.append, owner="slow to begin", timeout=20.0))
        while not steps:
            await asyncio.sleep(0.001)
        assert port.revoke("slow to begin")
    port.wire.worker.put(steps[0])
    with pytest.raises(GuardRevoked):
        await running
    assert begun == []
    assert await port.query_async(b"Q1?\n", owner="next") == b"A1"


async def test_revocation_in_the_moment_when_a_function_begins_leaves_no_task_waiting(port):
    for _ in range(50):
        async with port.acquire_async("revoked") as guard:
            running = asyncio.create_task(guard.run_async(lambda guard: "done"))
            await asyncio.sleep(0)
            assert port.revoke("revoked")
            assert await asyncio.wait_for(running, 5.0) == "done"


@pytest.mark.parametrize("cancelled", [False, True])
async def test_hanging_function_under_a_guard_ends_with_its_max_hold_when_others_wait(port, cancelled):
    go_on = threading.Event()

    def hang(guard):
        assert go_on.wait(20.0)
        return guard.query(b"Q1?\n")

    async def hold():
        async with port.acquire_async("stuck", max_hold=0.05) as guard:
            await guard.run_async(hang)

    try:
        holding = asyncio.create_task(hold())
        while port.current_owner != "stuck":
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # until it waits for the function
        if cancelled:
            holding.cancel()
        assert await port.query_async(b"Q2?\n", owner="meter", timeout=5.0) == b"A2"
        assert await asyncio.to_thread(port.query, b"Q3?\n", owner="meter_v2", timeout=5.0) == b"A3"
        go_on.set()
        with pytest.raises(asyncio.CancelledError if cancelled else GuardRevoked):
            await holding
        assert await port.query_async(b"Q4?\n", owner="meter", timeout=5.0) == b"A4"
    finally:
        go_on.set()


def test_command_of_a_task_whose_loop_was_closed_is_never_sent(instrument, port):
    loop = asyncio.new_event_loop()
    with port.acquire("holder"):
        task = loop.create_task(port.write_async(b"MOVE\n", owner="gone", timeout=10.0))
        while not len(port._arbiter):
            loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
    assert port.query(b"Q1?\n", owner="meter", timeout=5.0) == b"A1"
    assert instrument.received == [b"Q1?"]
    assert task not in dict(waiting_parties())
    task._log_destroy_pending = False


async def test_no_exchange_needs_the_event_loop_to_finish(port):
    """The loop is stopped by blocking code while a task's exchange is on the wire: others go on."""
    with Holder(port.acquire("thread")) as holder:
        asking = asyncio.create_task(port.query_async(b"Q1?\n", owner="task", timeout=20.0))
        await asyncio.sleep(0.02)
        holder.let_go()
        deadline = time.perf_counter() + 10.0
        while not len(port.log) and time.perf_counter() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251  the loop is blocked on purpose
        assert [entry.owner for entry in port.log] == ["task"]
    assert await asking == b"A1"


async def test_blocking_query_on_the_loop_waits_for_a_tasks_exchange_without_deadlock():
    with instrument_and_port(delay=0.01) as (_, port):
        for _ in range(10):
            asking = asyncio.create_task(port.query_async(b"Q1?\n", owner="task"))
            while port.current_owner is None and not asking.done():
                await asyncio.sleep(0)
            try:
                assert port.query(b"Q2?\n", owner="on the loop") == b"A2"
                break
            except LoopBlocked:  # a busy machine took longer than 50 ms
                continue
            finally:
                assert await asking == b"A1"


async def test_blocking_query_on_the_loop_never_waits_for_an_async_guard(port):
    async with port.acquire_async("guard"):

        async def other_task():
            with pytest.raises(WouldDeadlock) as caught:
                port.query(b"Q1?\n", owner="on the loop")
            return caught.value

        assert (await asyncio.create_task(other_task())).held_by == "guard"


@pytest.fixture
def two_ports():
    with (
        PtyInstrument() as one,
        PtyInstrument() as two,
        SharedSerialPort(one.path, check_order=False) as first,
        SharedSerialPort(two.path, check_order=False) as second,
    ):
        yield first, second


async def test_circle_over_a_tasks_transaction_is_found(two_ports):
    first, second = two_ports
    async with second.acquire_async("task"):

        def ask_what_the_task_holds(guard):
            return second.query(b"Q1?\n", owner="transaction", timeout=20.0)

        started = time.perf_counter()
        with pytest.raises(DeadlockDetected) as caught:
            await first.transact_async(ask_what_the_task_holds, owner="transaction", timeout=20.0)
        assert time.perf_counter() - started < 10.0
    assert {member.owner for member in caught.value.members} == {"transaction"}


def test_circle_of_ports_is_found_for_single_exchanges_too(two_ports):
    first, second = two_ports
    both = threading.Barrier(2)

    def take(mine, other, owner):
        with mine.acquire(owner, timeout=5.0):
            both.wait(5)
            try:
                return other.query(b"Q1?\n", owner=owner, timeout=5.0)
            except DeadlockDetected as error:
                return error

    people = [Person(take, first, second, "one"), Person(take, second, first, "two")]
    outcomes = [person.result() for person in people]
    assert sum(isinstance(outcome, DeadlockDetected) for outcome in outcomes) == 1
    assert b"A1" in outcomes


def test_ports_are_taken_in_one_order():
    with PtyInstrument() as one, PtyInstrument() as two:
        low, high = sorted((one.path, two.path))
        with SharedSerialPort(low) as first, SharedSerialPort(high) as second, second.acquire("meter"):
            with pytest.raises(LockOrderViolation):
                first.query(b"Q1?\n", owner="meter")

            async def ask():
                async with second.acquire_async("task"):
                    with pytest.raises(LockOrderViolation):
                        await first.query_async(b"Q1?\n", owner="task")

            second.wire.arbiter.revoke()
            asyncio.run(ask())


def test_connection_speaks_for_its_owner(instrument, port):
    connection = Connection(port, "power_v2", timeout=7.5)
    assert (connection.owner, connection.timeout, connection.description) == ("power_v2", 7.5, instrument.path)
    assert connection.wire is port
    assert connection.query(b"Q1?\n") == b"A1"
    assert connection.exchange(b"Q2?\n", rank=Rank.BACKGROUND).data == b"A2"
    connection.write(b"U1\n")
    assert connection.transact(lambda guard: guard.query(b"Q3?\n")) == b"A3"
    assert connection.collect_strays() == 0
    assert set(port.stats.owners) == {"power_v2"}

    async def all_again():
        assert await connection.query_async(b"Q4?\n", repeatable=True) == b"A4"
        assert (await connection.exchange_async(b"Q5?\n", until=3)).data == b"A5\n"
        await connection.write_async(b"U2\n")
        assert await connection.transact_async(lambda guard: guard.query(b"Q6?\n")) == b"A6"
        assert await connection.collect_strays_async() == 0

    asyncio.run(all_again())
    connection.timeout = 0.5
    with pytest.raises(CommandTimeout) as caught:
        connection.query(b"silence\n")
    assert caught.value.timeout == 0.5


def test_connection_opens_its_wire_on_first_use_and_again_after_it_was_closed(instrument):
    opened = []

    def source():
        opened.append(SharedSerialPort(instrument.path))
        return opened[-1]

    connection = Connection(source, "meter", description="the meter's port")
    assert connection.description == "the meter's port"
    assert not opened
    assert connection.query(b"Q1?\n") == b"A1"
    connection.open()
    assert len(opened) == 1
    opened[0].close()
    assert connection.query(b"Q2?\n") == b"A2"
    assert len(opened) == 2
    opened[1].close()


def test_connection_tells_why_its_wire_cannot_be_opened():
    connection = Connection(lambda: SharedSerialPort("/dev/no_such_port"), "meter")
    with pytest.raises(WireDisconnected, match="no such port"):
        connection.open()
    assert connection.description == "the wire of 'meter'"


def test_connection_passes_listeners_and_steps_on(instrument, port, wait_for):
    connection = Connection(port, "meter")
    events, strays, steps = [], [], []
    removals = [
        connection.add_listener(events.append),
        connection.add_stray_listener(lambda line, _: strays.append(line)),
        connection.add_reconnect_step("note", lambda guard: steps.append(guard.owner)),
    ]
    instrument.say(b"unasked\n")
    wait_for(lambda: instrument.left_over)
    assert connection.collect_strays() == 1
    assert strays == [b"unasked"]
    instrument.kill()
    instrument.plug_in()
    assert connection.query(b"Q1?\n", timeout=10.0) == b"A1"
    wait_for(lambda: [event.connected for event in events] == [False, True])
    assert steps == ["meter"]
    for remove in removals:
        remove()


def test_zero_timeout_takes_a_free_wire_only(port):
    with port.acquire("quick", timeout=0) as guard:
        assert guard.query(b"Q1?\n") == b"A1"
    with Holder(port.acquire("holder")), pytest.raises(AcquireTimeout), port.acquire("quick", timeout=0):
        pass


async def test_connection_opened_by_a_task_does_not_block_the_loop(instrument):
    opening, loop_runs = threading.Event(), threading.Event()

    def open_slowly():
        opening.set()
        assert loop_runs.wait(20.0), "the loop does not run while the wire is opened"
        return SharedSerialPort(instrument.path)

    connection = Connection(open_slowly, "meter", timeout=5.0)
    asking = asyncio.create_task(connection.query_async(b"Q1?\n"))
    while not opening.is_set():
        await asyncio.sleep(0.001)
    loop_runs.set()
    assert await asking == b"A1"
    connection.wire.close()
