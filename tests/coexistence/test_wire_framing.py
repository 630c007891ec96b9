"""How bytes become replies: endings, unasked lines, and indifference to how the bytes arrive in pieces."""

import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people import Person
from ptys import echo, instrument_and_port, unread

from coexistence import CommandTimeout, ConfigError
from coexistence.transport import StreamTransport


class Pieces(StreamTransport):
    """Hands out given pieces, then nothing."""

    def __init__(self, pieces):
        super().__init__("pieces")
        self._pieces = list(pieces)

    def _read_some(self, deadline):
        return self._pieces.pop(0) if self._pieces else b""

    def open(self):
        pass

    def close(self):
        pass

    def send(self, data, deadline):
        return len(data)

    def interrupt(self):
        pass


def cut(data, places):
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if data[a:b]]


def later():
    return time.perf_counter() + 60


LINES = st.lists(st.binary(max_size=8).map(lambda line: line.replace(b"\r", b"-").replace(b"\n", b"-")), max_size=6)


@given(lines=LINES, terminator=st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\r\n"]), places=st.lists(st.integers(0, 60)))
def test_lines_are_the_same_however_the_bytes_arrive(lines, terminator, places):
    data = b"".join(line + terminator for line in lines)
    transport = Pieces(cut(data, places))
    assert [transport.receive(terminator, later()) for _ in lines] == lines
    assert transport.receive(terminator, later()) is None
    assert transport.unread() == b""


@given(sizes=st.lists(st.integers(1, 9), max_size=6), places=st.lists(st.integers(0, 60)))
def test_replies_of_a_length_are_the_same_however_the_bytes_arrive(sizes, places):
    data = bytes(range(sum(sizes)))
    transport = Pieces(cut(data, places))
    received = [transport.receive(size, later()) for size in sizes]
    assert [len(each) for each in received] == sizes
    assert b"".join(received) == data


@given(blocks=st.lists(st.binary(min_size=1, max_size=9), max_size=6), places=st.lists(st.integers(0, 80)))
def test_replies_whose_end_a_function_finds_are_the_same_however_the_bytes_arrive(blocks, places):
    def end(buffer):
        return 1 + buffer[0] if len(buffer) > buffer[0] else 0

    data = b"".join(bytes([len(block)]) + block for block in blocks)
    transport = Pieces(cut(data, places))
    assert [transport.receive(end, later()) for _ in blocks] == [bytes([len(block)]) + block for block in blocks]


@given(
    lines=LINES,
    rest=st.binary(max_size=4).map(lambda line: line.replace(b"\n", b"-")),
    places=st.lists(st.integers(0, 60)),
)
def test_unfinished_reply_is_kept_for_the_next_attempt(lines, rest, places):
    data = b"".join(line + b"\n" for line in lines) + rest
    transport = Pieces(cut(data, places))
    for line in lines:
        assert transport.receive(b"\n", later()) == line
    assert transport.receive(b"\n", later()) is None
    assert transport.unread() == rest
    transport._pieces = [b"end\n"]
    assert transport.receive(b"\n", later()) == rest + b"end"


@pytest.mark.parametrize("ending", [b"\n", 10_000_000_000, lambda buffer: 0])
def test_flood_without_an_end_is_given_up_at_the_deadline(ending):
    class Flood(Pieces):
        def _read_some(self, deadline):
            return b"x" * 100

    started = time.perf_counter()
    assert Flood([]).receive(ending, started + 0.05) is None
    assert time.perf_counter() - started < 5.0


def test_flood_of_unasked_lines_does_not_keep_an_exchange_beyond_its_deadline():
    """An instrument that talks without pause: the question may fail, but in time."""
    with instrument_and_port(lambda command: b"babble " * 200 + b"\n") as (instrument, port):
        stop = threading.Event()

        def babble():
            while not stop.is_set():
                instrument.say(b"babble babble babble\n" * 20)

        babbler = Person(babble)
        time.sleep(0.05)
        started = time.perf_counter()
        with pytest.raises(CommandTimeout):
            port.query(b"Q1?\n", owner="meter", timeout=0.2, accept=lambda line: line == b"A1")
        took = time.perf_counter() - started
        stop.set()
        port.close()
        babbler.result()
        assert took < 6.0  # what has come is sorted before the clock is looked at, which takes a busy machine a while


@settings(max_examples=20)
@given(answer=st.binary(min_size=1, max_size=200).map(lambda line: line.replace(b"\n", b"-")))
def test_any_bytes_come_through_a_real_line(answer):
    with instrument_and_port(lambda command: answer + b"\n") as (_, port):
        assert port.query(b"?\n", owner="meter") == answer


def test_fixed_length_replies(wait_for):
    with instrument_and_port(lambda command: b"12345678", port={"terminator": b"\r\n"}) as (instrument, port):
        assert port.query(b"?\n", owner="meter", until=8) == b"12345678"
        with port.acquire("meter") as guard:
            guard.write(b"?\n")
            assert guard.read(3) == b"123"
            assert guard.read(5) == b"45678"
        with port.acquire("meter") as guard, pytest.raises(CommandTimeout) as caught:
            guard.write(b"?\n")
            wait_for(lambda: instrument.left_over == 8)
            guard.read(9, timeout=0.1)
        assert caught.value.received == b"12345678"


def test_reply_that_ends_where_a_function_says():
    def block(buffer):
        if len(buffer) < 2:
            return 0
        size = 2 + int(buffer[1:2])
        return size if len(buffer) >= size else 0

    with instrument_and_port(lambda command: b"#5ab\ncd") as (instrument, port):
        assert port.query(b"?\n", owner="meter", until=block) == b"#5ab\ncd"
        assert unread(instrument, port) == b""


def test_reply_with_another_terminator():
    with instrument_and_port(lambda command: b"first\nsecond\r\n\r\n") as (_, port):
        assert port.query(b"?\n", owner="meter", until=b"\r\n\r\n") == b"first\nsecond"


@pytest.mark.parametrize("ending", [b"", 0, -3])
def test_impossible_endings_are_refused_before_anything_is_sent(ending):
    with instrument_and_port() as (instrument, port):
        with pytest.raises(ConfigError, match="a reply must end with a terminator"):
            port.query(b"Q1?\n", owner="meter", until=ending)
        with port.acquire("meter") as guard, pytest.raises(ConfigError):
            guard.query(b"Q1?\n", until=ending)
        port.query(b"Q2?\n", owner="meter")
        assert instrument.received == [b"Q2?"]


def test_port_whose_replies_have_no_terminator_needs_an_ending_for_each():
    with instrument_and_port(lambda command: b"abc", port={"terminator": b""}) as (_, port):
        assert port.query(b"?\n", owner="meter", until=3) == b"abc"
        with pytest.raises(ConfigError, match="needs until= with each question"):
            port.query(b"?\n", owner="meter")


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1"])
def test_impossible_timeouts_are_refused_before_anything_is_sent(timeout):
    with instrument_and_port() as (instrument, port):
        with pytest.raises((ConfigError, TypeError)):
            port.query(b"Q1?\n", owner="meter", timeout=timeout)
        with port.acquire("meter") as guard, pytest.raises((ConfigError, TypeError)):
            guard.query(b"Q1?\n", timeout=timeout)
        assert instrument.received == []


def test_commands_without_reply_and_large_amounts_of_data():
    with instrument_and_port() as (instrument, port):
        port.write(b"U1\n", owner="meter")
        with port.acquire("meter") as guard:
            assert guard.write(b"E0\n") == 3
            guard.write_all(b"".join(b"DATA%d\n" % number for number in range(5000)))
            assert guard.query(b"Q1?\n") == b"A1"
        assert instrument.received[:2] == [b"U1", b"E0"]
        assert instrument.received[2:-1] == [b"DATA%d" % number for number in range(5000)]


def test_large_replies_come_whole():
    with instrument_and_port(lambda command: b"x" * 300_000 + b"\n") as (_, port):
        assert len(port.query(b"?\n", owner="meter", timeout=20.0)) == 300_000


def test_line_that_is_not_the_answer_goes_to_the_stray_listeners():
    def with_event(command):
        return b"EVENT button\n" + echo(command)

    with instrument_and_port(with_event) as (_, port):
        strays = []
        remove = port.add_stray_listener(lambda line, timestamp: strays.append((line, timestamp)))
        before = time.time()
        assert port.query(b"Q1?\n", owner="meter", accept=lambda line: line.startswith(b"A")) == b"A1"
        assert strays[0][0] == b"EVENT button"
        assert before <= strays[0][1] <= time.time()
        remove()
        remove()
        port.query(b"Q2?\n", owner="meter", accept=lambda line: line.startswith(b"A"))
        assert len(strays) == 1
        assert port.stats.strays == 2


def test_line_that_arrived_before_a_question_is_not_its_answer(wait_for):
    with instrument_and_port() as (instrument, port):
        strays = []
        port.add_stray_listener(lambda line, _: strays.append(line))
        instrument.say(b"unasked 1\nunasked 2\n")
        wait_for(lambda: instrument.left_over)
        assert port.query(b"Q1?\n", owner="meter") == b"A1"
        assert strays == [b"unasked 1", b"unasked 2"]


def test_strays_are_collected_without_asking(wait_for):
    with instrument_and_port() as (instrument, port):
        strays = []
        port.add_stray_listener(lambda line, _: strays.append(line))
        assert port.collect_strays(owner="watcher") == 0
        instrument.say(b"pressed\nreleased\n")
        wait_for(lambda: instrument.left_over)
        assert port.collect_strays(owner="watcher") == 2
        assert strays == [b"pressed", b"released"]
        assert instrument.received == []


async def test_strays_are_collected_by_tasks_too(wait_for):
    with instrument_and_port() as (instrument, port):
        instrument.say(b"pressed\n")
        wait_for(lambda: instrument.left_over)
        assert await port.collect_strays_async(owner="watcher") == 1


def test_failing_stray_listener_does_not_harm_the_exchange(wait_for, caplog):
    with instrument_and_port() as (instrument, port):
        heard = []
        port.add_stray_listener(lambda line, _: 1 / 0)
        port.add_stray_listener(lambda line, _: heard.append(line))
        instrument.say(b"pressed\n")
        wait_for(lambda: instrument.left_over)
        assert port.query(b"Q1?\n", owner="meter") == b"A1"
        assert heard == [b"pressed"]
        assert "a stray-line listener" in caplog.text


def test_replies_carry_the_time_at_which_they_were_complete():
    with instrument_and_port(delay=0.03) as (_, port):
        before = time.time()
        reply = port.exchange(b"Q1?\n", owner="meter")
        assert reply.data == b"A1"
        assert before + 0.025 <= reply.timestamp <= time.time()


def test_a_line_that_a_listener_waited_for_is_no_trouble():
    with instrument_and_port(lambda command: b"EVENT arrived\n" + echo(command)) as (_, port):
        port.add_stray_listener(lambda line, _: line == b"EVENT arrived")
        assert port.query(b"Q1?\n", owner="meter", accept=lambda line: line.startswith(b"A")) == b"A1"
        assert port.stats.strays == 0
        assert "awaited" in {entry.outcome for entry in port.log}
        assert port.wire.last_trouble == 0
