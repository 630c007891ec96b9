"""A thread may stand still between any two lines, and others use the wire meanwhile: nobody gets another's reply."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import serial
from people import Person
from ptys import NEVER_S

from coexistence import Guard, GuardRevoked, LeaseRules, SharedSerial
from coexistence.adoption.guards import LeaseGuard
from coexistence.adoption.lease import Lease
from coexistence.channel import Channel


def stumbling(seed: int, seconds: float) -> str:
    program = Path(__file__).with_name("stumbling.py")
    command = [sys.executable, str(program), str(seed), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120.0, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def test_everybody_gets_the_own_answer_though_threads_stand_still_at_random_lines():
    assert "'driver answered'" in stumbling(seed=1, seconds=4.0)


def test_a_question_whose_hold_was_revoked_as_soon_as_it_was_granted_is_not_sent(port, instrument, monkeypatch):
    enter, revoked, taken, over = Guard.__enter__, threading.Event(), threading.Event(), threading.Event()

    def enter_and_stand_still(guard: Guard) -> Guard:
        enter(guard)
        if guard.owner == "asker":
            port.revoke("asker")
            revoked.set()
            assert taken.wait(10.0)
        return guard

    def use() -> bytes:
        assert revoked.wait(10.0)
        with port.acquire("other") as guard:
            assert guard.query(b"Q2?\n") == b"A2"
            guard.write(b"Q3?\n")
            taken.set()
            assert over.wait(10.0)
            return guard.read_line()

    monkeypatch.setattr(Guard, "__enter__", enter_and_stand_still)
    other = Person(use)
    try:
        with pytest.raises(GuardRevoked):
            port.query(b"Q1?\n", owner="asker")
    finally:
        over.set()
    assert other.result() == b"A3"
    assert instrument.received == [b"Q2?", b"Q3?"]


def test_a_hold_lasts_until_a_write_that_joined_its_lease_is_over_though_it_was_revoked(port, instrument, monkeypatch):
    instrument.delay = lambda command: NEVER_S if command == b"Q1?" else 0.0
    begin, end = LeaseGuard.begin_operation, Lease._end
    check = Channel._check
    began, joined, revoked, ending, go_on = (threading.Event() for _ in range(5))
    rules = LeaseRules(acquire_timeout=8.0, reply_time=20.0)
    with SharedSerial(port, owner="legacy", timeout=20.0, rules=rules) as facade:
        facade.write(b"Q1?\n")

        def begin_and_stand_still(guard: LeaseGuard, **options: bool) -> None:
            begin(guard, **options)
            if threading.current_thread() is writer:
                joined.set()
                assert go_on.wait(10.0)

        def ask_again() -> None:
            assert began.wait(10.0)
            facade.write(b"Q2?\n")

        def stand_still_and_check(channel: Channel, guard: Guard) -> None:
            if threading.current_thread() is not writer and guard.owner == "legacy":
                assert revoked.wait(10.0)
            check(channel, guard)

        def tell_and_end(*arguments: object) -> None:
            ending.set()
            end(*arguments)

        writer = Person(ask_again)
        monkeypatch.setattr(LeaseGuard, "begin_operation", begin_and_stand_still)
        monkeypatch.setattr(Channel, "_check", stand_still_and_check)
        monkeypatch.setattr(Lease, "_end", tell_and_end)
        began.set()
        assert joined.wait(10.0)
        assert port.revoke("legacy")
        revoked.set()
        other = Person(lambda: port.query(b"Q3?\n", owner="other", timeout=20.0))
        assert ending.wait(10.0)
        go_on.set()
        with pytest.raises(serial.SerialException, match="was ended after"):
            writer.result()
        instrument.hurry()
        assert other.result() == b"A3"
    assert list(instrument.received) == [b"Q1?", b"Q3?"]


def test_both_replies_to_a_question_that_was_sent_twice_are_late_when_it_is_revoked(port, instrument, wait_for):
    instrument.silent = True
    asker = Person(lambda: port.query(b"Q1?\n", owner="asker", timeout=2.0, repeatable=True))
    wait_for(lambda: list(instrument.received) == [b"Q1?", b"Q1?"])
    assert port.revoke("asker")
    with pytest.raises(GuardRevoked):
        asker.result()
    instrument.silent = False
    instrument.delay = 0.3
    other = Person(lambda: port.query(b"Q2?\n", owner="other", timeout=10.0))
    instrument.say(b"A1\n")
    wait_for(lambda: [entry.outcome for entry in port.log].count("late") == 1)
    instrument.say(b"A1\n")
    assert other.result() == b"A2"
    assert [entry.received for entry in port.log if entry.outcome == "late"] == [b"A1", b"A1"]


def test_both_replies_are_late_when_two_questions_were_written_and_none_was_read(port, instrument, wait_for):
    instrument.silent = True
    with port.acquire("asker") as guard:
        guard.write(b"Q1?\n")
        guard.write(b"Q2?\n")
        with pytest.raises(TimeoutError):
            guard.read_line(timeout=0.05)
    wait_for(lambda: len(instrument.received) == 2)
    instrument.silent = False
    instrument.delay = 0.3
    other = Person(lambda: port.query(b"Q3?\n", owner="other", timeout=10.0))
    for late in (1, 2):
        instrument.say(b"A%d\n" % late)
        wait_for(lambda late=late: [entry.outcome for entry in port.log].count("late") == late)
    assert other.result() == b"A3"


def test_who_has_its_answer_forgets_nothing_of_what_others_ask_by_then(port, instrument, monkeypatch):
    instrument.delay = lambda command: NEVER_S if command == b"Q2?" else 0.0
    end, written, forgotten = Guard.end_operation, threading.Event(), threading.Event()

    def end_and_stand_still(guard: Guard, **options: bool) -> None:
        end(guard, **options)
        if guard.owner == "first":
            port.revoke("first")
            assert written.wait(10.0)

    def write_and_fail() -> None:
        with port.acquire("second", timeout=10.0) as guard:
            guard.write(b"Q2?\n")
            written.set()
            assert forgotten.wait(10.0)
            raise ZeroDivisionError

    with port.acquire("first") as guard:
        second = Person(write_and_fail)
        monkeypatch.setattr(Guard, "end_operation", end_and_stand_still)
        assert guard.query(b"Q1?\n") == b"A1"
        forgotten.set()
        with pytest.raises(ZeroDivisionError):
            second.result()
    third = Person(lambda: port.query(b"Q3?\n", owner="third", timeout=10.0))
    instrument.hurry()
    assert third.result() == b"A3"
