"""VISA sessions on a TCP socket: sharing, text, blocks, timeouts, loss and return, refusals."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import pytest
from people import Holder, Person
from ptys import NEVER_S, PtyInstrument, TcpInstrument, echo

from coexistence import (
    AcquireTimeout,
    CommandTimeout,
    ConfigError,
    Connection,
    GuardRevoked,
    LockOrderViolation,
    SerialPortPool,
    VisaSessionManager,
    WireClosed,
    WireDisconnected,
    make_block,
)

BLOCK = bytes(range(256)) * 3


def meter_answer(command: bytes) -> bytes | None:
    if command == b"*IDN?":
        return b"Maker,Meter,17,1.0\n"
    if command == b"CURVE?":
        return make_block(BLOCK) + b"\n"
    if command == b"UNIT?":
        return "µV\n".encode("latin-1")
    return echo(command)


@pytest.fixture
def meter() -> Iterator[TcpInstrument]:
    with TcpInstrument(meter_answer) as meter:
        yield meter


@pytest.fixture
def visa(no_descriptor_left_behind) -> Iterator[VisaSessionManager]:
    with VisaSessionManager("@py") as visa:
        yield visa


def resource_of(meter: TcpInstrument) -> str:
    return f"TCPIP0::127.0.0.1::{meter.port}::SOCKET"


def wait_for(condition, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)


# Exchanges


def test_text_goes_out_and_comes_back(visa, meter):
    handle = visa.session(resource_of(meter), owner="v2")
    handle.write("CONF:VOLT")
    assert handle.query("Qvolts?") == "Avolts"
    assert handle.query("Qended?\n") == "Aended"
    assert handle.query("UNIT?") == "µV"
    before = time.time()
    text, timestamp = handle.exchange("Qtime?")
    assert text == "Atime"
    assert before <= timestamp <= time.time()
    assert meter.received[0] == b"CONF:VOLT"


async def test_all_of_it_works_from_an_event_loop(visa, meter):
    handle = visa.session(resource_of(meter), owner="v4")
    await handle.write_async("CONF:VOLT")
    replies = await asyncio.gather(*(handle.query_async(f"Q{number}?") for number in range(20)))
    assert replies == [f"A{number}" for number in range(20)]
    assert (await handle.exchange_async("Qx?")).text == "Ax"
    assert await handle.query_block_async("CURVE?") == BLOCK
    assert await handle.transact_async(lambda guard: (guard.query("Qa?"), guard.query("Qb?"))) == ("Aa", "Ab")
    async with handle.acquire_async() as guard:
        assert await guard.query_async("Qheld?") == "Aheld"
        await guard.write_async("Qread?")
        assert await guard.read_async() == "Aread"
        assert await guard.run_async(lambda held: held.query("Qrun?")) == "Arun"
    await handle.clear_async()
    await handle.reconnect_async()
    assert await handle.query_async("Qback?") == "Aback"


def test_a_hold_keeps_others_out(visa, meter):
    handle = visa.session(resource_of(meter), owner="v2")
    other = handle.clone("v4")
    with handle.acquire() as guard:
        assert guard.owner == "v2"
        guard.write("Qfirst?")
        with pytest.raises(AcquireTimeout, match=r"'v4' did not get .* held by 'v2'"):
            Person(_query, other, 0.05).result()
        assert guard.read() == "Afirst"
        assert guard.query_block("CURVE?") == BLOCK
    assert other.query("Qthird?") == "Athird"
    assert handle.transact(lambda guard: guard.query("Q4?") + guard.query("Q5?")) == "A4A5"


def _query(handle, timeout: float) -> str:
    return handle.query("Qquestion?", timeout=timeout)


def test_blocks_come_back_as_their_data_in_any_pieces(visa, meter):
    handle = visa.session(resource_of(meter), owner="scope")
    data = b"\n#15" * 300_000
    meter.answer = lambda command: make_block(data) + b"\n" if command == b"CURVE?" else meter_answer(command)
    assert handle.query_block("CURVE?", timeout=10.0) == data
    assert handle.query("Qnext?") == "Anext"


def test_a_block_goes_out_as_one_command(visa, meter):
    handle = visa.session(resource_of(meter), owner="scope")
    handle.write_block("DATA:ARB ", b"abc")
    with handle.acquire() as guard:
        guard.write_block("DATA:ARB ", b"defg")
    handle.query("Qdone?")
    assert meter.received[:2] == [b"DATA:ARB #13abc", b"DATA:ARB #14defg"]


def test_raw_is_a_connection_with_bytes_for_device_drivers(visa, meter):
    handle = visa.session(resource_of(meter), owner="driver", timeout=7.5)
    assert isinstance(handle.raw, Connection)
    assert handle.raw is handle.raw
    assert handle.raw.timeout == 7.5
    assert handle.raw.query(b"Qraw?\n") == b"Araw"
    with handle.acquire() as guard:
        assert guard.raw.query(b"Qbytes?\n") == b"Abytes"


def test_a_command_that_is_not_latin_1_is_refused_by_name(visa, meter):
    handle = visa.session(resource_of(meter), owner="v2")
    with pytest.raises(ConfigError, match="'Ω' at position 5 is not in Latin-1"):
        handle.query("RES 1Ω")


# One session for each resource


def test_every_spelling_and_every_manager_user_gets_the_same_wire(visa, meter):
    first = visa.session(f"TCPIP0::LOCALHOST::{meter.port}::SOCKET", owner="a")
    second = visa.session(f"tcpip::localhost::{meter.port}::socket", owner="b")
    assert first.channel is second.channel
    assert visa.resources == [first.resource]
    assert first.clone().channel is first.channel
    assert first.clone("c").owner == "c"


def test_the_same_resource_with_other_terminators_is_refused(visa, meter):
    visa.session(resource_of(meter), owner="a")
    with pytest.raises(ConfigError, match=r"is open with terminator '\\n', and '\\r\\n' was asked for"):
        visa.session(resource_of(meter), owner="b", terminator="\r\n")


def test_threads_that_ask_for_one_resource_at_once_open_it_once(visa):
    with TcpInstrument() as meter:
        people = [Person(lambda: visa.session(resource_of(meter), owner="x").channel) for _ in range(8)]
        assert len({id(person.result()) for person in people}) == 1


def test_identity_is_asked_once_for_all_who_want_to_know(visa, meter):
    handle = visa.session(resource_of(meter), owner="v2")
    meter.delay = 0.05
    people = [Person(handle.clone(f"thread {number}").identity) for number in range(4)]

    async def ask() -> list[str]:
        return await asyncio.gather(*(handle.clone(f"task {number}").identity_async() for number in range(4)))

    answers = [*asyncio.run(ask()), *(person.result() for person in people), handle.identity()]
    assert set(answers) == {"Maker,Meter,17,1.0"}
    assert meter.received == [b"*IDN?"]


def test_identity_is_asked_again_after_a_reconnect(visa, meter):
    handle = visa.session(resource_of(meter), owner="v2")
    assert handle.identity() == "Maker,Meter,17,1.0"
    meter.answer = lambda _command: b"Maker,Other,18,1.0\n"
    handle.reconnect()
    assert handle.identity() == "Maker,Other,18,1.0"


def test_queue_depth_counts_those_in_line(visa, meter):
    handle = visa.session(resource_of(meter), owner="v2")
    with Holder(handle.acquire()):
        people = [Person(_query, handle, 30.0) for _ in range(3)]
        wait_for(lambda: handle.queue_depth == 3)
    assert [person.result() for person in people] == ["Aquestion"] * 3
    assert handle.queue_depth == 0


def test_statistics_count_commands_of_all_resources(visa, meter):
    with TcpInstrument() as other:
        first = visa.session(resource_of(meter), owner="a")
        second = visa.session(resource_of(other), owner="b")
        for number in range(3):
            first.query(f"Q{number}?")
        second.write("RST")
        other.silent = True
        with pytest.raises(CommandTimeout):
            second.query("Qlost?", timeout=0.3)
        assert visa.stats.total_commands == 5
        assert visa.stats.timeouts == 1
        assert visa.stats.wires[second.resource].owners["b"].exchanges == 2


def test_different_resources_work_in_parallel(visa, meter):
    with TcpInstrument(delay=NEVER_S) as slow:
        waiting = Person(_query, visa.session(resource_of(slow), owner="slow"), 30.0)
        wait_for(lambda: slow.received)
        assert visa.session(resource_of(meter), owner="fast").query("Qnow?") == "Anow"
        slow.hurry()
        assert waiting.result() == "Aquestion"


def test_visa_wires_come_after_serial_ones_and_by_name(visa, meter, tmp_path):
    with PtyInstrument() as instrument, contextlib.closing(SerialPortPool()) as pool:
        port = pool.get(instrument.path)
        handle = visa.session(resource_of(meter), owner="v2")
        with port.acquire("v2"), handle.acquire():
            pass
        with handle.acquire(), pytest.raises(LockOrderViolation, match="serial before VISA"):
            port.query(b"Qx?\n", owner="v2")


def test_a_serial_resource_is_its_port_of_the_pool(tmp_path):
    with (
        PtyInstrument(link=tmp_path / "meter") as instrument,
        contextlib.closing(SerialPortPool()) as pool,
        VisaSessionManager("@py", pool=pool) as visa,
    ):
        port = pool.get(instrument.path, baud_rate=19200)
        handle = visa.session(f"ASRL{instrument.device}::INSTR", owner="meter")
        assert handle.channel is port
        assert handle.query("Qserial?") == "Aserial"
        assert handle.channel.wire.arbiter.order[0] == 0
        with pytest.raises(ConfigError, match="baud_rate 19200, and 9600 was asked for"):
            visa.session(f"ASRL{instrument.device}::INSTR", owner="other", baud_rate=9600)
        handle.clear()
        handle.reconnect()
        assert handle.query("Qagain?") == "Aagain"
        visa.close()
        assert port.query(b"Qpool?\n", owner="pool") == b"Apool"


# Timeouts, cancellation, revocation


def test_a_late_reply_never_reaches_the_next_question(visa, meter):
    handle = visa.session(resource_of(meter), owner="v2")
    # Some come before the next question, most after it: a busy machine may make it later.
    meter.delay = lambda command: 0.25 if command.startswith(b"Qslow") else 0.0
    for number in range(5):
        with contextlib.suppress(CommandTimeout):
            assert handle.query(f"Qslow{number}?", timeout=0.1) == f"Aslow{number}"
        assert handle.query(f"Qnext{number}?") == f"Anext{number}"
    assert handle.connected
    assert visa.stats.reconnects == 0


def test_a_deadline_that_passes_in_line_sends_nothing(visa, meter):
    handle = visa.session(resource_of(meter), owner="v2")
    with Holder(handle.acquire()), pytest.raises(AcquireTimeout):
        handle.clone("v4").query("Qnever?", timeout=0.05)
    handle.query("Qafter?")
    assert b"Qnever?" not in meter.received


async def test_a_cancelled_query_keeps_its_reply_from_others(visa, meter):
    handle = visa.session(resource_of(meter), owner="v4")
    meter.delay = 0.02
    for number in range(5):
        asked = asyncio.create_task(handle.query_async(f"Qcancelled{number}?"))
        await asyncio.sleep(0.01)
        asked.cancel()
        assert await handle.query_async(f"Q{number}?") == f"A{number}"
        with contextlib.suppress(asyncio.CancelledError):  # a busy machine may have answered it before
            assert await asked == f"Acancelled{number}"


def test_a_revoked_wait_ends_at_once(visa, meter):
    handle = visa.session(resource_of(meter), owner="stuck")
    meter.silent = True
    stuck = Person(_query, handle, 30.0)
    wait_for(lambda: meter.received)
    started = time.perf_counter()
    handle.channel.revoke("stuck", "it took too long")
    with pytest.raises(GuardRevoked, match="it took too long"):
        stuck.result()
    assert time.perf_counter() - started < 10.0
    meter.silent = False
    assert handle.clone("next").query("Qnext?") == "Anext"


def test_closing_ends_every_wait_and_leaves_nothing(visa, meter):
    handle = visa.session(resource_of(meter), owner="stuck")
    meter.silent = True
    people = [Person(_query, handle, 30.0) for _ in range(3)]
    wait_for(lambda: meter.received and handle.queue_depth == 2)
    started = time.perf_counter()
    visa.close()
    assert time.perf_counter() - started < 10.0
    for person in people:
        with pytest.raises((WireClosed, GuardRevoked)):
            person.result()
    with pytest.raises(WireClosed):
        visa.session(resource_of(meter), owner="late")
    with pytest.raises(WireClosed):
        handle.query("Qclosed?")
    visa.close()


# Coming and going


def test_nobody_listening_is_an_error_that_names_host_and_port(visa):
    with TcpInstrument() as meter:
        name = resource_of(meter)
        port = meter.port
    with pytest.raises(
        WireDisconnected, match=rf"Check that 127\.0\.0\.1 is on the network and listens on port {port}"
    ):
        visa.session(name, owner="v2")
    assert visa.resources == []


def test_an_instrument_that_comes_back_is_found_within_a_second(visa):
    events = []
    with TcpInstrument(meter_answer) as meter:
        port = meter.port
        handle = visa.session(resource_of(meter), owner="v2", timeout=20.0)
        handle.channel.add_listener(events.append)
        steps = []
        handle.raw.add_reconnect_step("units", lambda guard: steps.append(guard.query(b"Qunits?\n")))
        assert handle.query("Qbefore?") == "Abefore"
    waiting = [Person(handle.query, f"Q{number}?") for number in range(4)]
    wait_for(lambda: not handle.connected)
    with pytest.raises(WireDisconnected):
        handle.query("Qimpatient?", timeout=0.05)
    with TcpInstrument(meter_answer, port=port) as meter:
        back = time.perf_counter()
        replies = [person.result() for person in waiting]
        assert time.perf_counter() - back < 5.0
        assert replies == [f"A{number}" for number in range(4)]
        assert steps == [b"Aunits"]
        wait_for(lambda: [event.connected for event in events] == [False, True])
        assert visa.stats.reconnects == 1


def test_reconnect_waits_for_the_instrument_and_says_if_it_is_not_back(visa):
    with TcpInstrument() as meter:
        handle = visa.session(resource_of(meter), owner="v2")
        handle.reconnect()
        assert handle.query("Qa?") == "Aa"
    with pytest.raises(WireDisconnected):
        handle.reconnect(timeout=0.2)
    assert not handle.connected


# Bad input


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"terminator": b"\n"}, r"terminator must be a string in Latin-1, not b'\\n' / write it as text: '\\n'"),
        ({"terminator": "→"}, "terminator must be a string in Latin-1"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0"),
        ({"owner": ""}, "owner must be a non-empty string"),
        ({"baud_rate": 9600}, "has no line settings such as baud_rate"),
    ],
)
def test_values_that_cannot_be_right_are_refused(visa, meter, arguments, why):
    with pytest.raises(ConfigError, match=why):
        visa.session(resource_of(meter), **{"owner": "v2", **arguments})


# Crossed replies


def test_no_reply_is_ever_crossed_among_threads_and_tasks(visa, meter):
    """Unique questions of 4 threads and 4 tasks, with random cancellations and deadlines."""
    import random

    handle = visa.session(resource_of(meter), owner="all")
    meter.delay = lambda command: random.choice([0.0, 0.0, 0.0, 0.002]) if command.endswith(b"r?") else 0.0
    wrong: list[tuple[str, str]] = []
    right = [0]
    ends = time.monotonic() + 8.0
    each = 1000

    def check(question: str, reply: str) -> None:
        if reply == "A" + question[1:-1]:
            right[0] += 1
        else:
            wrong.append((question, reply))

    def in_thread(name: str) -> None:
        choose = random.Random(name)
        mine = handle.clone(name)
        for number in range(each):
            question = f"Q{name}-{number}-{choose.choice('rs')}?"
            with contextlib.suppress(TimeoutError):
                check(question, mine.query(question, timeout=choose.choice([0.001, 0.02, 1.0, 1.0, 1.0])))
            if time.monotonic() > ends:
                return

    async def in_task(name: str) -> None:
        choose = random.Random(name)
        mine = handle.clone(name)
        for number in range(each):
            question = f"Q{name}-{number}-{choose.choice('rs')}?"
            asked = asyncio.create_task(mine.query_async(question, timeout=choose.choice([0.001, 0.02, 1.0, 1.0, 1.0])))
            if choose.random() < 0.1:
                await asyncio.sleep(choose.choice([0.0, 0.001]))
                asked.cancel()
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                check(question, await asked)
            if time.monotonic() > ends:
                return

    async def tasks() -> None:
        await asyncio.gather(*(in_task(f"task{number}") for number in range(4)))

    people = [Person(in_thread, f"thread{number}") for number in range(4)] + [Person(asyncio.run, tasks())]
    for person in people:
        person.result(30.0)
    assert not wrong
    assert right[0] > 500
    assert handle.query("Qlast?") == "Alast"
