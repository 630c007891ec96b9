"""The long proofs about wires, with their size as a parameter: the suite runs them short, the soak runs them long."""

import asyncio
import contextlib
import gc
import itertools
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from types import FrameType

import psutil
from machine import Bystander
from people import Person
from ptys import Instrument, PtyInstrument, instrument_and_port, unread

from coexistence import (
    AcquireTimeout,
    Arbiter,
    CommandTimeout,
    DeadlockDetected,
    GuardRevoked,
    Hold,
    Rank,
    SharedSerialPort,
    WireDisconnected,
)
from coexistence.hold import State
from coexistence.parties import held, waiting_parties


def opposite_orders(rounds: int, *, seed: int = 1) -> int:
    """Let threads and tasks take three wires in opposite orders, without order checks; return how many circles closed.

    Fails when anybody waits for long, when a circle is reported with a member missing, or when a wire stays held.
    """
    wires = [Arbiter(name, order=(0, name), check_order=False) for name in "abc"]
    circles = []
    patience_s = 10.0
    done = {"threads": 0, "tasks": 0}

    def note(error: DeadlockDetected) -> None:
        owners = [member.owner for member in error.members]
        assert len(owners) >= 2
        assert len(set(owners)) == len(owners)
        held = [{name for name, _ in member.holds} for member in error.members]
        for number, member in enumerate(error.members):
            following = held[(number + 1) % len(held)]
            assert member.waits_for in following, error
        circles.append(len(owners))

    def in_thread(owner: str) -> None:
        choose = random.Random(f"{seed} {owner}")
        while done["threads"] < rounds // 2:
            first, second = choose.sample(wires, 2)
            try:
                with first.acquire(owner, timeout=patience_s):
                    time.sleep(choose.choice([0.0, 0.0005]))
                    with second.acquire(owner, timeout=patience_s):
                        pass
            except DeadlockDetected as error:
                note(error)
            done["threads"] += 1

    async def in_task(owner: str) -> None:
        choose = random.Random(f"{seed} {owner}")
        while done["tasks"] < rounds // 2:
            first, second = choose.sample(wires, 2)
            try:
                async with first.acquire(owner, timeout=patience_s):
                    await asyncio.sleep(choose.choice([0.0, 0.0005]))
                    async with second.acquire(owner, timeout=patience_s):
                        pass
            except DeadlockDetected as error:
                note(error)
            done["tasks"] += 1

    async def all_tasks() -> None:
        await asyncio.gather(*(in_task(f"task {number}") for number in range(3)))

    people = [Person(in_thread, f"thread {number}") for number in range(3)] + [Person(asyncio.run, all_tasks())]
    for person in people:
        person.result(timeout=60.0 + rounds / 50)
    assert all(wire.holder is None and not len(wire) for wire in wires)
    mine = [hold for _, hold in waiting_parties() if hold._arbiter in wires]
    assert not mine, f"left in the wait-for graph: {mine}"
    return len(circles)


def crossed_replies(exchanges: int, *, seed: int = 7) -> dict[str, int]:
    """Ask unique questions from 4 threads and 4 tasks on one pty, with random deadlines and cancellations.

    Returns how the exchanges ended. Fails on a wrong answer, a byte left over, a timeout later than 50 ms after its
    deadline (a second is allowed for a busy machine, and twice what it stood still), or a wire that stays held.
    """
    outcomes: Counter[str] = Counter()
    numbers = itertools.count()
    deadlines: list[tuple[float, float]] = []

    def delay(command: bytes) -> float:
        number = int(command[1:-1])
        return 0.004 if number % 50 == 7 else 0.0003

    def plan(choose: random.Random) -> float:
        return choose.choice([0.002, 0.01, 0.05, 1.0, 1.0, 1.0])

    def check(question: int, answer: bytes) -> None:
        assert answer == b"A%d" % question, f"question {question} was answered by {answer!r}"
        outcomes["answered"] += 1

    # Every question is answered, but a busy machine may take its time.
    with instrument_and_port(port={"timeout": 1.0, "late_reply_limit": 20.0}, delay=delay) as (instrument, port):

        def in_thread(owner: str) -> None:
            choose = random.Random(f"{seed} {owner}")
            while (number := next(numbers)) < exchanges:
                timeout = plan(choose)
                started = time.monotonic()
                try:
                    if choose.random() < 0.2:
                        with port.acquire(owner, timeout=timeout) as guard:
                            check(number, guard.query(b"Q%d?\n" % number, timeout=timeout))
                    else:
                        check(number, port.query(b"Q%d?\n" % number, owner=owner, timeout=timeout))
                except (AcquireTimeout, CommandTimeout) as error:
                    outcomes[type(error).__name__] += 1
                    patience = 2 * timeout if isinstance(error, CommandTimeout) else timeout
                    deadlines.append((started + patience, time.monotonic()))

        async def in_task(owner: str) -> None:
            choose = random.Random(f"{seed} {owner}")
            while (number := next(numbers)) < exchanges:
                timeout = plan(choose)
                started = time.monotonic()
                asking = asyncio.ensure_future(port.query_async(b"Q%d?\n" % number, owner=owner, timeout=timeout))
                if choose.random() < 0.1:
                    asyncio.get_running_loop().call_later(choose.uniform(0.0, 0.005), asking.cancel)
                try:
                    check(number, await asking)
                except (AcquireTimeout, CommandTimeout) as error:
                    outcomes[type(error).__name__] += 1
                    deadlines.append((started + timeout, time.monotonic()))
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1

        async def all_tasks() -> None:
            await asyncio.gather(*(in_task(f"task {number}") for number in range(4)))

        with Bystander() as bystander:
            people = [Person(in_thread, f"thread {number}") for number in range(4)]
            people.append(Person(asyncio.run, all_tasks()))
            for person in people:
                person.result(timeout=60.0 + exchanges / 50)
        wait_until(lambda: port.current_owner is None)
        port.query(b"Q0?\n", owner="last", timeout=10.0)
        assert unread(instrument, port) == b""
        # Two of them may have to run one after the other, each as late as the machine is.
        overdue = [end - due - 2 * bystander.stalled_s(due, end) for due, end in deadlines]
        assert all(late < 1.0 for late in overdue), f"latest timeouts: {sorted(overdue)[-5:]}"
    outcomes["later than 50 ms"] = sum(late >= 0.05 for late in overdue)
    return dict(outcomes)


def late_replies(rounds: int, *, timeout: float = 0.02, seed: int = 3) -> dict[str, int]:
    """Delay replies to between 0.5 and 2 times the timeout and let the next owner ask at once.

    Returns how the exchanges ended. Fails when anybody gets the answer to another question, or another error than a
    timeout.
    """
    outcomes: Counter[str] = Counter()
    choose = random.Random(seed)
    delays = {}

    def delay(command: bytes) -> float:
        return delays.get(command, 0.0)

    patience = {"timeout": timeout, "late_reply_limit": 1000 * timeout}  # a busy machine delays replies further
    with instrument_and_port(port=patience, delay=delay) as (instrument, port):
        for number in range(rounds):
            slow, quick = b"Qslow%d?" % number, b"Qquick%d?" % number
            delays[slow] = choose.uniform(0.5, 2.0) * timeout
            repeatable = choose.random() < 0.2
            try:
                answer = port.query(slow + b"\n", owner="slow", timeout=timeout, repeatable=repeatable)
                assert answer == b"A" + slow[1:-1]
                outcomes["in time"] += 1
            except CommandTimeout as error:
                outcomes["late" if error.sent else "refused"] += 1
            try:
                answer = port.query(quick + b"\n", owner="quick", timeout=choose.choice([timeout, 10 * timeout]))
                assert answer == b"A" + quick[1:-1], f"{quick!r} was answered by {answer!r}"
                outcomes["next right"] += 1
            except CommandTimeout as error:
                outcomes["next refused" if not error.sent else "next late"] += 1
        port.query(b"Qend?\n", owner="last", timeout=10.0)
        assert unread(instrument, port) == b""
    return dict(outcomes)


def unplug_and_replug(instrument: Instrument, port: SharedSerialPort, away: float) -> float:
    """Unplug under load, plug in again; return how long after its return the first good reply came (s).

    Times in which the machine stood still are not counted.
    """
    stop = threading.Event()
    good: list[float] = []

    def ask(owner: str) -> None:
        while not stop.is_set():
            with contextlib.suppress(WireDisconnected, AcquireTimeout, CommandTimeout):
                number = threading.get_ident()
                assert port.query(b"Q%d?\n" % number, owner=owner, timeout=10.0) == b"A%d" % number
                good.append(time.perf_counter())
            time.sleep(0.001)

    async def ask_in_task(owner: str) -> None:
        while not stop.is_set():
            with contextlib.suppress(WireDisconnected, AcquireTimeout, CommandTimeout):
                assert await port.query_async(b"Qtask?\n", owner=owner, timeout=10.0) == b"Atask"
                good.append(time.perf_counter())
            await asyncio.sleep(0.001)

    people = [Person(ask, "thread 1"), Person(ask, "thread 2"), Person(asyncio.run, ask_in_task("task"))]
    try:
        wait_until(lambda: len(good) > 20)
        instrument.kill()
        wait_until(lambda: not port.connected)
        time.sleep(away)  # the time for which the cable is out
        back = time.perf_counter()
        with Bystander() as bystander:
            instrument.plug_in()
            wait_until(lambda: good[-1] > back)
    finally:
        stop.set()
        for person in people:
            person.result()
    returned = next(moment for moment in good if moment > back)
    return returned - back - sum(end - begin for begin, end in bystander.stalls)


def many_exchanges(number: int) -> dict[str, float]:
    """Make exchanges from a thread and a task in turns; return how much memory, threads and descriptors grew."""
    process = psutil.Process()
    with instrument_and_port() as (instrument, port):
        instrument.received = deque(maxlen=100)  # its own memory is not to be measured

        async def some(count: int) -> None:
            for each in range(count):
                if each % 2:
                    await port.query_async(b"Q%d?\n" % each, owner="task")
                else:
                    port.query(b"Q%d?\n" % each, owner="thread")

        asyncio.run(some(2500))
        gc.collect()
        before = process.memory_info().rss, threading.active_count(), process.num_fds()
        asyncio.run(some(number))
        gc.collect()
        after = process.memory_info().rss, threading.active_count(), process.num_fds()
        assert port.stats.exchanges == 2500 + number
    return {
        "memory_bytes": after[0] - before[0],
        "threads": after[1] - before[1],
        "descriptors": after[2] - before[2],
    }


def many_wires(wires: int, threads: int, tasks: int, exchanges: int) -> dict[str, float]:
    """Use many wires from many threads and tasks at once, then leave them idle; return what that costs."""
    process = psutil.Process()
    with contextlib.ExitStack() as stack:
        instruments = [stack.enter_context(PtyInstrument()) for _ in range(wires)]
        gc.collect()
        memory = process.memory_info().rss
        ports = [stack.enter_context(SharedSerialPort(instrument.path, timeout=30.0)) for instrument in instruments]

        def in_thread(owner: str) -> None:
            choose = random.Random(owner)
            for number in range(exchanges):
                question = f"{owner} {number}".encode()
                assert choose.choice(ports).query(b"Q%b?\n" % question, owner=owner) == b"A" + question

        async def in_task(owner: str) -> None:
            choose = random.Random(owner)
            for number in range(exchanges):
                question = f"{owner} {number}".encode()
                assert await choose.choice(ports).query_async(b"Q%b?\n" % question, owner=owner) == b"A" + question

        async def all_tasks() -> None:
            await asyncio.gather(*(in_task(f"task {number}") for number in range(tasks)))

        started = time.perf_counter()
        people = [Person(in_thread, f"thread {number}") for number in range(threads)]
        people.append(Person(asyncio.run, all_tasks()))
        for person in people:
            person.result(timeout=120.0 + exchanges)
        duration = time.perf_counter() - started
        gc.collect()
        grown = process.memory_info().rss - memory
        used = process.cpu_times()
        time.sleep(0.5)  # the time for which nothing is asked
        idle = process.cpu_times()
        assert sum(port.stats.exchanges for port in ports) == (threads + tasks) * exchanges
    return {
        "exchanges_per_s": (threads + tasks) * exchanges / duration,
        "memory_per_wire_bytes": grown / wires,
        "idle_cpu_share": (idle.user + idle.system - used.user - used.system) / 0.5,
    }


class Struck(BaseException):
    """What a signal's handler raises."""


@contextlib.contextmanager
def ctrl_c_in(function: str) -> Iterator[None]:
    """Have Ctrl-C strike the block when it enters a function of this name, and fail if it does not."""

    def strike(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == function:
            raise KeyboardInterrupt

    before = sys.gettrace()
    struck = False
    sys.settrace(strike)
    try:
        yield
    except KeyboardInterrupt:
        struck = True
    finally:
        sys.settrace(before)
    assert struck


def signals_at_random_moments(deed: Callable[[], object], check: Callable[[], None], strikes: int) -> list[str]:
    """Let a signal raise in the main thread at random moments while it does ``deed`` over and over.

    ``check`` is called after each. Returns where a signal struck in the one place where CPython lets it undo a release:
    the very start of a Python-level ``__exit__``. ``check`` is told so by :class:`Undone`.
    """
    choose = random.Random(5)
    undone: list[str] = []

    def do_it_for_ever() -> None:
        while True:
            deed()

    def strike(_: int, frame: FrameType | None) -> None:
        # Once more where a destructor swallowed it, but never while what it did is looked at.
        while frame is not None:
            if frame.f_code is do_it_for_ever.__code__:
                raise Struck
            frame = frame.f_back

    earlier = signal.signal(signal.SIGALRM, strike)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # strikes in destructors are none of ours
    try:
        for _ in range(strikes):
            where = ""
            try:
                signal.setitimer(signal.ITIMER_REAL, choose.uniform(2e-6, 1e-3), 0.05)
                do_it_for_ever()
            except Struck as error:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                trace = error.__traceback__
                frames = []
                while trace is not None:
                    frames.append(f"{trace.tb_frame.f_code.co_qualname}+{trace.tb_lasti}")
                    trace = trace.tb_next
                where = frames[-2]
            try:
                check()
            except Undone:
                assert where == "Hold.__exit__+0", where
                undone.append(where)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, earlier)
        sys.unraisablehook = hook
    return undone


class Undone(Exception):
    """The main thread still holds the wire."""


def wait_until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not become true within {timeout} s"
        time.sleep(0.001)


def mutual_exclusion(duration: float, *, revocations: bool, seed: int = 11) -> dict[str, int]:
    """Acquire and release from 4 threads and 4 tasks as fast as can be, switching threads as often as can be.

    Returns how often each kind of thing happened, with at least 300 holds. Fails when two have the wire at once, when
    somebody waits in vain although all let go, or when anything stays held, waiting or linked.
    """
    arbiter = Arbiter("wire", order=(0, "wire"))
    counts: Counter[str] = Counter()
    present: list[Hold] = [arbiter.acquire("nobody")]
    end = time.perf_counter() + duration
    patience_s = 20.0

    def goes_on() -> bool:
        return time.perf_counter() < end or counts["held"] < 300

    def inside(hold: Hold, choose: random.Random) -> None:
        present[0] = hold
        for _ in range(choose.randrange(20)):
            other = present[0]
            assert other is hold or State.REVOKED in (hold.state, other.state), "two have the wire at once"
        counts["revoked" if hold.state is State.REVOKED else "held"] += 1

    def in_thread(owner: str) -> None:
        choose = random.Random(f"{seed} {owner}")
        while goes_on():
            timeout = choose.choice([0.0, 0.0005, patience_s, patience_s])
            rank = choose.choice(list(Rank)[: 2 if revocations else 1])
            try:
                with arbiter.acquire(owner, timeout, rank) as hold:
                    inside(hold, choose)
                    if choose.random() < 0.1:
                        with arbiter.acquire(owner, 0.0):
                            pass
            except AcquireTimeout as error:  # also of the inner one, when the outer was revoked
                if error.waited >= patience_s:
                    raise
                counts["gave up"] += 1
            except GuardRevoked:
                counts["told"] += 1

    async def in_task(owner: str) -> None:
        choose = random.Random(f"{seed} {owner}")
        while goes_on():
            timeout = choose.choice([0.0, 0.0005, patience_s, patience_s])

            async def take(timeout: float = timeout) -> None:
                async with arbiter.acquire(owner, timeout) as hold:
                    inside(hold, choose)
                    if choose.random() < 0.3:
                        await asyncio.sleep(0)

            taking = asyncio.ensure_future(take())
            if choose.random() < 0.2:
                asyncio.get_running_loop().call_later(choose.uniform(0.0, 0.002), taking.cancel)
            try:
                await taking
            except AcquireTimeout:
                assert timeout < patience_s, "waited in vain"
                counts["gave up"] += 1
            except asyncio.CancelledError:
                counts["cancelled"] += 1

    async def all_tasks() -> None:
        await asyncio.gather(*(in_task(f"task {number}") for number in range(4)))

    def revoke() -> None:
        while goes_on():
            counts["revocations"] += arbiter.revoke()
            time.sleep(0.0002)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        people = [Person(in_thread, f"thread {number}") for number in range(4)] + [Person(asyncio.run, all_tasks())]
        if revocations:
            people.append(Person(revoke))
        for person in people:
            person.result(timeout=duration + 60.0)
    finally:
        sys.setswitchinterval(interval)
    assert arbiter.holder is None
    assert not len(arbiter)
    with arbiter.acquire("last", timeout=0.0):
        pass
    assert not [hold for _, hold in waiting_parties() if hold._arbiter is arbiter]
    assert not [hold for hold in tuple(held.values()) if hold._arbiter is arbiter and hold.state is not State.ENDED]
    return dict(counts)
