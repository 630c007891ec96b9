"""Signals that strike the main thread at random moments: run as a program of its own, for nothing else may be struck.

Usage: python interruptions.py acquisitions|guards|query|"repeatable query"|transaction|strays
"""

import itertools
import sys
import threading
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from people import Person  # noqa: E402
from proofs import Undone, signals_at_random_moments  # noqa: E402
from ptys import instrument_and_port, unread  # noqa: E402

from coexistence import Arbiter  # noqa: E402
from coexistence.parties import held, waiting  # noqa: E402

MOST_UNDONE = 0.15
"""CPython runs signal handlers at the start of a Python function, before its first line: a release whose ``__exit__``
is struck there is lost. In a loop that does nothing but acquire and release that is one strike in twenty."""


def strike_acquisitions() -> None:
    arbiter = Arbiter("wire")
    main = threading.current_thread()
    stop = threading.Event()
    turns = itertools.count()
    last = [0]

    def take_turns():
        while not stop.is_set():
            with arbiter.acquire("other", timeout=30.0):
                last[0] = next(turns)

    def deed():
        with arbiter.acquire("main", timeout=30.0), arbiter.acquire("main again"):
            pass

    def check():
        assert main not in waiting
        holder = arbiter.holder
        if holder is not None and holder.party is main:
            arbiter.revoke("main", "it was left behind")
            held.pop(main, None)
            raise Undone
        before = last[0]
        while last[0] < before + 2:
            pass

    other = Person(take_turns)
    try:
        undone = signals_at_random_moments(deed, check, strikes=80)
    finally:
        stop.set()
        other.result()
    assert len(undone) <= 80 * MOST_UNDONE
    assert arbiter.holder is None
    assert not len(arbiter)


def strike_exchanges(kind: str) -> None:
    numbers = itertools.count()
    with instrument_and_port(port={"timeout": 10.0, "late_reply_limit": 0.2}) as (instrument, port):

        def ask(owner, **options):
            number = next(numbers)
            assert port.query(b"Q%d?\n" % number, owner=owner, **options) == b"A%d" % number

        deeds = {
            "query": lambda: ask("main"),
            "repeatable query": lambda: ask("main", repeatable=True),
            "transaction": lambda: port.transact(lambda guard: ask("main"), owner="main"),
            "strays": lambda: port.collect_strays(owner="main"),
        }

        def check():
            assert threading.current_thread() not in held
            instrument.settle()  # on a busy machine it may answer later than the limit
            Person(ask, "other").result()

        assert signals_at_random_moments(deeds[kind], check, strikes=80) == []
        assert unread(instrument, port) == b""


def strike_guards() -> None:
    numbers = itertools.count()
    with instrument_and_port(port={"timeout": 0.3, "late_reply_limit": 0.2}) as (instrument, port):

        def ask(owner):
            with port.acquire(owner) as guard:
                number = next(numbers)
                guard.write(b"Q%d?\n" % number)
                assert guard.read_line(timeout=10.0) == b"A%d" % number
                number = next(numbers)
                assert guard.query(b"Q%d?\n" % number, timeout=10.0) == b"A%d" % number

        def ask_once(owner):
            number = next(numbers)
            assert port.query(b"Q%d?\n" % number, owner=owner, timeout=10.0) == b"A%d" % number

        def check():
            left = threading.current_thread() in held
            if left:
                port.revoke("main", "it was left behind")
                held.pop(threading.current_thread(), None)
            instrument.settle()
            Person(ask_once, "other").result()
            if left:
                raise Undone

        undone = signals_at_random_moments(lambda: ask("main"), check, strikes=80)
        assert len(undone) <= 80 * MOST_UNDONE
        assert unread(instrument, port) == b""


if __name__ == "__main__":
    name = sys.argv[1]
    if name == "acquisitions":
        strike_acquisitions()
    elif name == "guards":
        strike_guards()
    else:
        strike_exchanges(name)
