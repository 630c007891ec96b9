"""Nobody ever gets an answer to somebody else's question."""

import asyncio
import threading
import time

import pytest
from people import Person
from proofs import crossed_replies, late_replies
from ptys import NEVER_S, echo, instrument_and_port, revoke_before_it_sends, unanswered, unread

from coexistence import CommandTimeout, GuardRevoked, Rank, channel


def not_before_it_hurries(*questions: bytes):
    """Return the delay of an instrument that answers these only when it is told to."""
    return lambda command: NEVER_S if command in questions else 0.0


def test_threads_and_tasks_with_deadlines_and_cancellations_get_their_own_answers():
    outcomes = crossed_replies(1500)
    assert outcomes["answered"] > 500
    assert outcomes.get("cancelled", 0) > 5


def test_late_replies_are_never_given_to_the_next_owner():
    outcomes = late_replies(60)
    assert outcomes["late"] > 10
    assert outcomes["next right"] > 20


def test_late_reply_is_logged_and_counted(wait_for):
    with instrument_and_port(port={"late_reply_limit": 30.0}, delay=not_before_it_hurries(b"Qslow?")) as (
        instrument,
        port,
    ):
        unanswered(port.query, b"Qslow?\n", owner="slow")
        following = Person(lambda: port.query(b"Qnext?\n", owner="next", timeout=10.0))
        wait_for(lambda: port.current_owner == "next")
        instrument.hurry()
        assert following.result() == b"Anext"
        assert port.stats.late_replies == 1
        assert [entry.outcome for entry in port.log] == ["timeout", "late", "ok"]
        assert port.log[1].received == b"Aslow"
        assert unread(instrument, port) == b""


def test_next_owner_whose_time_is_too_short_is_told_and_nothing_is_sent(wait_for):
    with instrument_and_port(port={"late_reply_limit": 20.0}) as (instrument, port):
        instrument.silent = True
        unanswered(port.query, b"Qslow?\n", owner="slow")
        with pytest.raises(CommandTimeout) as caught:
            port.query(b"Qnext?\n", owner="next", timeout=0.01)
        assert not caught.value.sent
        assert "a late reply to b'Qslow?\\n' of 'slow' may still come" in str(caught.value)
        wait_for(lambda: instrument.received == [b"Qslow?"])
        instrument.silent = False
        instrument.say(b"Aslow\n")
        assert port.query(b"Qnext?\n", owner="next", timeout=10.0) == b"Anext"
        assert instrument.received == [b"Qslow?", b"Qnext?"]


def test_reply_that_came_in_part_is_completed_and_dropped(wait_for):
    with instrument_and_port(lambda command: b"12", port={"late_reply_limit": 30.0}) as (instrument, port):
        with port.acquire("slow") as guard, pytest.raises(CommandTimeout) as caught:
            guard.write(b"Qslow?\n")
            wait_for(lambda: instrument.left_over == 2)
            guard.read_line(timeout=0.1)
        assert caught.value.received == b"12"
        instrument.answer = echo
        following = Person(lambda: port.query(b"Qnext?\n", owner="next", timeout=10.0))
        wait_for(lambda: port.current_owner == "next")
        instrument.say(b"34\n")
        assert following.result() == b"Anext"
        assert port.log[1].received == b"1234"


def test_lost_reply_holds_up_the_next_owner_only_as_long_as_it_may_still_come(wait_for):
    with instrument_and_port(port={"late_reply_limit": 0.1}) as (instrument, port):
        instrument.silent = True
        started = time.perf_counter()
        unanswered(port.query, b"Qlost?\n", owner="a")
        wait_for(lambda: instrument.received == [b"Qlost?"])
        instrument.silent = False
        assert port.query(b"Qnext?\n", owner="b", timeout=5.0) == b"Anext"
        assert time.perf_counter() - started >= 0.12


def test_reply_to_a_dead_holder_is_not_given_to_the_next():
    with instrument_and_port(delay=lambda command: 0.08 if command == b"Qdead?" else 0.0) as (_, port):

        def ask_and_die():
            guard = port.acquire("dead").__enter__()
            guard.write(b"Qdead?\n")

        Person(ask_and_die).result()
        assert port.query(b"Qnext?\n", owner="next", timeout=10.0) == b"Anext"
        assert port.stats.late_replies == 1


def test_reply_to_a_revoked_holder_is_not_given_to_the_next():
    with (
        instrument_and_port(delay=lambda command: 0.08 if command == b"Qstuck?" else 0.0) as (_, port),
        port.acquire("stuck") as guard,
    ):
        guard.write(b"Qstuck?\n")
        assert port.revoke("stuck")
        assert Person(lambda: port.query(b"Qnext?\n", owner="next", timeout=10.0)).result() == b"Anext"
        with pytest.raises(GuardRevoked):
            guard.read_line()


def test_nobody_waits_for_the_reply_to_what_was_revoked_before_it_was_sent(instrument, port, monkeypatch):
    revoke_before_it_sends("stuck", port, monkeypatch)
    with port.acquire("stuck") as guard:
        with pytest.raises(GuardRevoked):
            guard.write(b"Q1?\n")
        assert Person(lambda: port.query(b"Q2?\n", owner="next", timeout=5.0)).result() == b"A2"
    assert instrument.received == [b"Q2?"]


def test_reply_to_a_holder_that_failed_before_reading_is_not_given_to_the_next():
    with instrument_and_port(delay=lambda command: 0.05 if command == b"Qclumsy?" else 0.0) as (_, port):
        with pytest.raises(ZeroDivisionError), port.acquire("clumsy") as guard:
            guard.write(b"Qclumsy?\n")
            raise ZeroDivisionError
        assert port.query(b"Qnext?\n", owner="next", timeout=10.0) == b"Anext"


def test_two_unread_replies_are_both_kept_from_the_next():
    with instrument_and_port(delay=lambda command: 0.0 if command == b"Qnext?" else 0.04) as (_, port):
        with pytest.raises(ZeroDivisionError), port.acquire("clumsy") as guard:
            guard.write(b"Qone?\n")
            guard.write(b"Qtwo?\n")
            raise ZeroDivisionError
        assert port.query(b"Qnext?\n", owner="next", timeout=10.0) == b"Anext"
        assert port.stats.late_replies == 2


async def test_reply_to_a_task_cancelled_before_reading_is_not_given_to_the_next():
    with instrument_and_port(delay=not_before_it_hurries(b"Qcancelled?")) as (instrument, port):

        async def ask():
            async with port.acquire_async("cancelled") as guard:
                await guard.write_async(b"Qcancelled?\n")
                await asyncio.sleep(30)

        task = asyncio.create_task(ask())
        while not port.log:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)
        task.cancel()
        following = asyncio.create_task(port.query_async(b"Qnext?\n", owner="next", timeout=10.0))
        while port.current_owner != "next":
            await asyncio.sleep(0.001)
        instrument.hurry()
        assert await following == b"Anext"


async def test_reply_to_a_task_cancelled_while_writing_is_not_given_to_the_next():
    for pause in (0.0, 0.0001, 0.0003, 0.001):
        with instrument_and_port(delay=not_before_it_hurries(b"Qcancelled?")) as (instrument, port):

            async def ask(port=port):
                async with port.acquire_async("cancelled") as guard:
                    await guard.write_async(b"Qcancelled?\n")
                    await guard.read_line_async()

            task = asyncio.create_task(ask())
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            following = asyncio.create_task(port.query_async(b"Qnext?\n", owner="next", timeout=10.0))
            await asyncio.sleep(0.01)
            instrument.hurry()
            assert await following == b"Anext"


async def test_cancelled_exchange_ends_on_the_wire_by_itself():
    with instrument_and_port(delay=NEVER_S) as (instrument, port):
        task = asyncio.create_task(port.query_async(b"Q1?\n", owner="cancelled"))
        while not instrument.received:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert port.current_owner == "cancelled"
        instrument.hurry()
        assert await port.query_async(b"Q2?\n", owner="next") == b"A2"
        assert [entry.outcome for entry in port.log] == ["ok", "ok"]
        assert port.stats.late_replies == 0


async def test_exchange_cancelled_in_line_is_never_sent():
    with instrument_and_port(delay=NEVER_S) as (instrument, port):
        first = asyncio.create_task(port.query_async(b"Q1?\n", owner="first"))
        second = asyncio.create_task(port.query_async(b"Q2?\n", owner="second"))
        while not len(port.wire.arbiter):
            await asyncio.sleep(0.001)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        instrument.hurry()
        assert await first == b"A1"
        assert await port.query_async(b"Q3?\n", owner="third") == b"A3"
        assert instrument.received == [b"Q1?", b"Q3?"]


def test_what_expired_in_line_is_never_sent():
    with instrument_and_port(delay=NEVER_S) as (instrument, port):
        slow = Person(lambda: port.query(b"Qslow?\n", owner="slow"))
        while not instrument.received:
            time.sleep(0.001)
        with pytest.raises(TimeoutError):
            port.query(b"Qexpired?\n", owner="expired", timeout=0.05)

        async def ask():
            await port.query_async(b"Qexpired?\n", owner="expired", timeout=0.02)

        with pytest.raises(TimeoutError):
            asyncio.run(ask())
        instrument.hurry()
        slow.result()
        port.query(b"Qend?\n", owner="end")
        assert instrument.received == [b"Qslow?", b"Qend?"]


@pytest.fixture
def asks_again_soon(monkeypatch):
    """Let a question be repeated long before its time is over, whatever the machine does meanwhile."""
    monkeypatch.setattr(channel, "_RETRY_SHARE", 0.01)


def test_repeatable_query_is_asked_once_more_when_its_reply_is_lost(asks_again_soon):
    asked = []

    def forget_the_first(command):
        asked.append(command)
        return None if len(asked) == 1 else echo(command)

    with instrument_and_port(forget_the_first, port={"late_reply_limit": 0.05}) as (_, port):
        assert port.query(b"Q1?\n", owner="meter", timeout=20.0, repeatable=True) == b"A1"
        assert asked == [b"Q1?", b"Q1?"]
        assert port.stats.retries == 1
        assert port.query(b"Q2?\n", owner="meter", timeout=5.0) == b"A2"


def test_reply_that_came_just_before_the_question_was_repeated_is_its_answer(asks_again_soon, monkeypatch, wait_for):
    with instrument_and_port(port={"late_reply_limit": 30.0}) as (instrument, port):
        instrument.silent = True
        receive = port._transport.receive

        def receive_and_stand_still(ending, deadline):
            data = receive(ending, deadline)
            if data is None and not instrument.left_over:
                instrument.say(b"A1\n")
                wait_for(lambda: instrument.left_over == 3)
            return data

        monkeypatch.setattr(port._transport, "receive", receive_and_stand_still)
        assert port.query(b"Q1?\n", owner="meter", timeout=10.0, repeatable=True) == b"A1"
        instrument.silent = False
        assert port.query(b"Q2?\n", owner="meter", timeout=5.0) == b"A2"
        assert instrument.received == [b"Q1?", b"Q2?"]
        assert port.stats.retries == port.stats.late_replies == port.stats.strays == 0


def test_query_is_asked_only_once_unless_it_is_repeatable(wait_for):
    with instrument_and_port(lambda command: None) as (instrument, port):
        unanswered(port.query, b"Q1?\n", owner="meter")
        wait_for(lambda: instrument.received == [b"Q1?"])


def test_second_reply_to_a_repeated_query_is_not_given_to_the_next(asks_again_soon):
    def answer(command):
        if command != b"Q1?":
            return echo(command)
        if instrument.received.count(command) < 2:
            return None
        later.start()
        return b"A1\n"

    with instrument_and_port(answer) as (instrument, port):
        later = threading.Timer(0.05, instrument.say, [b"A1\n"])
        assert port.query(b"Q1?\n", owner="meter", timeout=10.0, repeatable=True) == b"A1"
        assert port.query(b"Q2?\n", owner="meter", timeout=10.0) == b"A2"
        assert port.stats.late_replies == 1
        later.join()


def test_accept_function_that_fails_does_so_for_its_own_owner_only(instrument, port, wait_for):
    instrument.silent = True
    unanswered(port.query, b"Q1?\n", owner="careless", accept=lambda line: int(line) > 0)
    wait_for(lambda: instrument.received)
    instrument.silent = False
    instrument.say(b"garbage\n")
    assert port.query(b"Q2?\n", owner="meter", timeout=5.0) == b"A2"


def test_ending_function_that_fails_does_so_for_its_own_owner_only():
    with instrument_and_port(port={"late_reply_limit": 0.2}) as (_, port):
        with pytest.raises(ZeroDivisionError):
            port.query(b"Q1?\n", owner="careless", until=lambda buffer: len(buffer) // 0)
        assert port.query(b"Q2?\n", owner="meter", timeout=5.0) == b"A2"


def test_reply_on_which_an_accept_function_fails_reaches_those_who_listen():
    strays = []
    with instrument_and_port(port={"late_reply_limit": 0.2}) as (_, port):
        port.add_stray_listener(lambda line, _: strays.append(line))
        with pytest.raises(ZeroDivisionError):
            port.query(b"Q1?\n", owner="careless", accept=lambda line: len(line) // 0 > 0)
        assert strays == [b"A1"]
        assert port.query(b"Q2?\n", owner="meter", timeout=5.0) == b"A2"


def test_revocation_breaks_off_a_blocked_exchange(wait_for):
    with instrument_and_port(lambda command: None) as (_, port):

        def ask():
            started = time.perf_counter()
            with pytest.raises(GuardRevoked):
                port.query(b"Q1?\n", owner="stuck", timeout=20.0)
            return time.perf_counter() - started

        stuck = Person(ask)
        wait_for(lambda: port.current_owner == "stuck")
        time.sleep(0.02)
        assert port.revoke("stuck", "it hung")
        assert stuck.result() < 10.0


def test_revocation_breaks_off_a_blocked_send(wait_for):
    """An instrument that reads nothing: the kernel's buffer fills up and the send blocks."""
    with instrument_and_port() as (instrument, port):
        instrument.deaf = True
        instrument.wake()
        stuck = Person(lambda: port.write(b"x" * 200_000, owner="stuck", timeout=20.0))
        wait_for(lambda: port.current_owner == "stuck")
        time.sleep(0.05)
        assert port.revoke("stuck", "it hung")
        with pytest.raises(GuardRevoked):
            stuck.result()
        instrument.deaf = False
        instrument.wake()


def test_exchange_beyond_max_hold_is_broken_off_when_others_wait():
    with instrument_and_port(lambda command: None if command == b"Qstuck?" else echo(command)) as (_, port):

        def ask():
            with port.acquire("stuck", max_hold=0.1) as guard:
                guard.query(b"Qstuck?\n", timeout=20.0)

        stuck = Person(ask)
        while port.current_owner is None:
            time.sleep(0.001)
        with port.acquire("next", timeout=10.0):
            pass
        with pytest.raises(GuardRevoked, match="max_hold"):
            stuck.result()


def test_urgent_waits_for_the_exchange_in_progress_and_no_longer(wait_for):
    with instrument_and_port(delay=NEVER_S) as (instrument, port):
        others = [
            Person(lambda number=number: port.query(b"Q%d?\n" % number, owner=f"{number}", timeout=10.0))
            for number in range(6)
        ]
        wait_for(lambda: len(port.wire.arbiter) == 5)
        stop = Person(lambda: port.write(b"STOP\n", owner="stop", rank=Rank.URGENT, timeout=10.0))
        wait_for(lambda: len(port.wire.arbiter) == 6)
        instrument.hurry()
        for person in [stop, *others]:
            person.result()
        wait_for(lambda: b"STOP" in instrument.received)
        assert instrument.received.index(b"STOP") == 1


def test_question_whose_time_ran_out_before_it_was_repeated_still_expects_its_reply(monkeypatch):
    with instrument_and_port(port={"late_reply_limit": 30.0}, delay=not_before_it_hurries(b"Qslow?")) as (
        instrument,
        port,
    ):
        looks = []

        def look_slowly(terminator, look=port._transport.take_lines):
            looks.append(terminator)
            if len(looks) == 2:
                time.sleep(0.1)  # the machine is busy just when the question would be repeated
            return look(terminator)

        monkeypatch.setattr(port._transport, "take_lines", look_slowly)
        with pytest.raises(CommandTimeout) as caught:
            port.query(b"Qslow?\n", owner="slow", timeout=0.1, repeatable=True)
        assert caught.value.sent
        instrument.hurry()
        assert port.query(b"Qnext?\n", owner="next", timeout=10.0) == b"Anext"
        assert instrument.received == [b"Qslow?", b"Qnext?"]
        assert port.stats.late_replies == 1


def test_urgent_command_without_reply_passes_a_silent_instrument(wait_for):
    with instrument_and_port(port={"late_reply_limit": 60.0}) as (instrument, port):
        instrument.silent = True
        unanswered(port.query, b"Qlost?\n", owner="stage")
        port.write(b"STOP\n", owner="stage", rank=Rank.URGENT, timeout=5.0)
        with pytest.raises(CommandTimeout, match="may still come"):
            port.query(b"Qnext?\n", owner="stage", timeout=0.05)
        wait_for(lambda: instrument.received == [b"Qlost?", b"STOP"])


def test_late_reply_that_an_urgent_command_met_is_waited_for_no_longer(wait_for):
    with instrument_and_port(port={"late_reply_limit": 30.0}, delay=NEVER_S) as (instrument, port):
        unanswered(port.query, b"Qslow?\n", owner="stage")
        instrument.hurry()
        wait_for(lambda: instrument.left_over)
        port.write(b"STOP\n", owner="stage", rank=Rank.URGENT)
        assert port.query(b"Qnext?\n", owner="stage", timeout=5.0) == b"Anext"
        assert [entry.outcome for entry in port.log] == ["timeout", "late", "ok", "ok"]


def test_late_reply_after_an_urgent_command_is_still_kept_from_the_next(wait_for):
    with instrument_and_port(port={"late_reply_limit": 30.0}, delay=not_before_it_hurries(b"Qslow?")) as (
        instrument,
        port,
    ):
        unanswered(port.query, b"Qslow?\n", owner="stage")
        port.write(b"STOP\n", owner="stage", rank=Rank.URGENT)
        following = Person(lambda: port.query(b"Qnext?\n", owner="meter", timeout=10.0))
        wait_for(lambda: port.current_owner == "meter")
        instrument.hurry()
        assert following.result() == b"Anext"
        assert port.stats.late_replies == 1
