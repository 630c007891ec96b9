"""Threads that stand still at random lines of the layer while all who may use a wire use it: a program of its own.

Adopted drivers, single questions, repeatable ones, tasks that are cancelled and guards share one port, and holds are
revoked. Whoever gets an answer must get its own, whoever waits long enough must get one, and nobody may expect a late
reply that has come or was never asked for.

Usage: python stumbling.py SEED SECONDS
"""

import asyncio
import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import serial  # noqa: E402
from people import Person  # noqa: E402
from ptys import instrument_and_port, unread  # noqa: E402

import coexistence  # noqa: E402
from coexistence import AcquireTimeout, CommandTimeout, GuardRevoked, LeaseRules, SharedSerial  # noqa: E402

STUMBLES = 0.003
"""Share of the lines at which a thread stands still."""
LONGEST_S = 0.02
REPLIES_S = (0.0, 0.0, 0.001, 0.01, 0.15)
SHORT_S = (0.02, 0.2)
LONG_S = 20.0
"""As a time limit: never over, whatever the others do."""
PHANTOM_S = 3.0
"""A reply that is expected for so long will not come: the instrument answers everything within 0.15 s."""

LOGGED = 40
"""How much of the wire's log is printed when something went wrong."""


def stumble(choose: random.Random) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function under which threads stand still for a moment in the layer's own code."""
    layer = os.path.dirname(coexistence.__file__)

    def at_line(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line" and choose.random() < STUMBLES:
            time.sleep(choose.uniform(0.001, LONGEST_S))
        return at_line

    return lambda frame, _event, _argument: at_line if frame.f_code.co_filename.startswith(layer) else None


class Users:
    """All who use the port until the time is over."""

    def __init__(self, port: coexistence.SharedSerialPort, seed: int, seconds: float) -> None:
        self.port = port
        self.seed = seed
        self.end = time.monotonic() + seconds
        self.outcomes: Counter[str] = Counter()
        self._numbers = itertools.count()

    def people(self) -> list[Person]:
        """Begin to use it."""
        deeds: list[tuple[Callable[..., None], Any]] = [
            (self.drive, ("driver 1", 0.05)),
            (self.drive, ("driver 2", 1.0)),
        ]
        deeds += [(self.ask, ("asker",)), (self.guard, ("guard",)), (self.revoke, ()), (self.run_tasks, ())]
        return [Person(self._until_one_fails, *each) for each in deeds]

    def _until_one_fails(self, deed: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            deed(*arguments)
        except BaseException:
            self.end = time.monotonic()
            raise

    def drive(self, name: str, quiet_time: float) -> None:
        """As an adopted driver, which may give up and read what is not there."""
        choose = self._chooser(name)
        rules = LeaseRules(acquire_timeout=LONG_S, reply_time=0.3, quiet_time=quiet_time)
        with SharedSerial(self.port, owner=name, rules=rules) as facade:
            while self._goes_on():
                facade.timeout = choose.choice((0.01, 0.05, 0.3, 2.0))
                question, answer = self._question()
                try:
                    facade.write(question)
                    found = facade.read_until()
                    assert found in (answer, b""), (name, question, found)
                    self.outcomes["driver answered" if found else "driver gave up"] += 1
                    if choose.random() < 0.2:
                        facade.timeout = choose.choice(SHORT_S)
                        assert answer.startswith(facade.read(50))
                except serial.SerialException as error:
                    if "was ended after" not in str(error):
                        raise
                    self.outcomes["driver revoked"] += 1
                if choose.random() < 0.2:
                    time.sleep(choose.uniform(0.0, 0.2))

    def ask(self, name: str) -> None:
        """Single questions, repeatable ones among them."""
        choose = self._chooser(name)
        while self._goes_on():
            limit = choose.choice((*SHORT_S, LONG_S, LONG_S))
            question, answer = self._question()
            try:
                found = self.port.query(question, owner=name, timeout=limit, repeatable=choose.random() < 0.3)
            except GuardRevoked:
                self.outcomes["question revoked"] += 1
            except (AcquireTimeout, CommandTimeout):
                assert limit < LONG_S
                self.outcomes["question timed out"] += 1
            else:
                assert found + b"\n" == answer, (name, question, found)
                self.outcomes["question answered"] += 1

    def run_tasks(self) -> None:
        """Questions of tasks, some of which are cancelled."""

        async def tasks() -> None:
            await asyncio.gather(self._task("task 1"), self._task("task 2"))

        asyncio.run(tasks())

    async def _task(self, name: str) -> None:
        choose = self._chooser(name)
        while self._goes_on():
            limit = choose.choice((*SHORT_S, LONG_S, LONG_S))
            question, answer = self._question()
            task = asyncio.ensure_future(self.port.query_async(question, owner=name, timeout=limit))
            if choose.random() < 0.2:
                asyncio.get_running_loop().call_later(choose.uniform(0.0, 0.1), task.cancel)
            try:
                found = await task
            except asyncio.CancelledError:
                self.outcomes["task cancelled"] += 1
            except GuardRevoked:
                self.outcomes["task revoked"] += 1
            except (AcquireTimeout, CommandTimeout):
                assert limit < LONG_S
                self.outcomes["task timed out"] += 1
            else:
                assert found + b"\n" == answer, (name, question, found)
                self.outcomes["task answered"] += 1

    def guard(self, name: str) -> None:
        """Several exchanges in one hold, which may end with a reply still to come."""
        choose = self._chooser(name)
        while self._goes_on():
            try:
                with self.port.acquire(name, timeout=LONG_S) as guard:
                    for _ in range(choose.randrange(1, 4)):
                        limit = choose.choice((*SHORT_S, LONG_S))
                        question, answer = self._question()
                        if choose.random() < 0.5:
                            found = guard.query(question, timeout=limit)
                        else:
                            guard.write(question)
                            if choose.random() < 0.2:
                                raise ZeroDivisionError
                            found = guard.read_line(timeout=limit)
                        assert found + b"\n" == answer, (name, question, found)
                        self.outcomes["guard answered"] += 1
            except (ZeroDivisionError, CommandTimeout, GuardRevoked) as error:
                self.outcomes[f"guard {type(error).__name__}"] += 1

    def revoke(self) -> None:
        """End whatever hold there is, now and then; and look for replies that are expected in vain."""
        sys.settrace(None)
        choose = self._chooser("revoke")
        expected, since = None, time.monotonic()
        while self._goes_on():
            time.sleep(choose.uniform(0.0, 0.3))
            now = self.port._suspect
            if now is not expected:
                expected, since = now, time.monotonic()
            assert expected is None or time.monotonic() - since < PHANTOM_S, (expected.owner, expected.question)
            self.outcomes["revoked"] += self.port.revoke()

    def _goes_on(self) -> bool:
        return time.monotonic() < self.end

    def _question(self) -> tuple[bytes, bytes]:
        number = next(self._numbers)
        return b"Q%d?\n" % number, b"A%d\n" % number

    def _chooser(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")


def main(seed: int, seconds: float) -> None:
    """Have all use one port, and look afterwards whether it is as if nothing had been."""
    choose = random.Random(seed)
    threading.settrace(stumble(choose))
    port_options = {"timeout": LONG_S, "late_reply_limit": LONG_S}
    with instrument_and_port(port=port_options, delay=lambda _: choose.choice(REPLIES_S)) as (instrument, port):
        users = Users(port, seed, seconds)
        people = users.people()
        try:
            for person in people:
                person.result(seconds + 2 * LONG_S)
        except BaseException:
            for entry in list(port.log)[-LOGGED:]:
                print(f"{entry.time:.3f} {entry.owner}: {entry.sent!r} {entry.received!r} {entry.outcome}")
            raise
        finally:
            threading.settrace(None)  # type: ignore[arg-type]
        assert port.query(b"Qlast?\n", owner="last") == b"Alast"
        assert unread(instrument, port) == b""
    print(dict(sorted(users.outcomes.items())))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
