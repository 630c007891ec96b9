"""Several wires at once: the order in which they may be taken, and circles that are found before anyone waits."""

import asyncio
import threading
import time

import pytest
from people import Holder, Person
from proofs import opposite_orders

from coexistence import Arbiter, DeadlockDetected, LockOrderViolation


@pytest.fixture
def ordered():
    return [Arbiter(name, order=(0, name)) for name in "abc"]


@pytest.fixture
def unordered():
    return [Arbiter(name, order=(0, name), check_order=False) for name in "abc"]


def test_taking_wires_against_the_order_is_refused_before_anything_blocks(ordered):
    a, b, c = ordered
    with Holder(a.acquire("somebody")), b.acquire("me"), c.acquire("me"):
        started = time.perf_counter()
        with pytest.raises(LockOrderViolation) as caught, a.acquire("me", timeout=20):
            pass
        assert time.perf_counter() - started < 10.0
        assert not len(a)
    assert (caught.value.wire, caught.value.owner) == ("a", "me")
    assert sorted(caught.value.held) == ["b", "c"]


def test_the_order_is_checked_also_where_the_wire_is_free(ordered):
    a, b, _ = ordered
    with b.acquire("me"), pytest.raises(LockOrderViolation), a.acquire("me"):
        pass
    with a.acquire("me"), b.acquire("me"):
        pass


async def test_tasks_must_keep_to_the_order_too(ordered):
    a, b, _ = ordered
    async with b.acquire("me"):
        with pytest.raises(LockOrderViolation):
            async with a.acquire("me"):
                pass
    async with a.acquire("me"), b.acquire("me"):
        pass


def test_serial_wires_come_before_visa_sessions():
    serial, visa = Arbiter("z port", order=(0, "z")), Arbiter("a session", order=(1, "a"))
    with serial.acquire("me"), visa.acquire("me"):
        pass
    with visa.acquire("me"), pytest.raises(LockOrderViolation), serial.acquire("me"):
        pass


def test_taking_a_wire_again_is_no_violation(ordered):
    a, b, _ = ordered
    with a.acquire("me"), b.acquire("me"), a.acquire("me"):
        pass


def test_circle_of_two_threads_is_reported_with_all_members(unordered, wait_for):
    a, b, _ = unordered
    both = threading.Barrier(2)
    caught = []

    def take(first, second, owner):
        with first.acquire(owner, timeout=10):
            both.wait(10)
            try:
                with second.acquire(owner, timeout=10):
                    pass
            except DeadlockDetected as error:
                caught.append(error)

    started = time.perf_counter()
    people = [Person(take, a, b, "one"), Person(take, b, a, "two")]
    for person in people:
        person.result()
    assert time.perf_counter() - started < 8.0
    (error,) = caught
    members = {member.owner: member for member in error.members}
    assert set(members) == {"one", "two"}
    assert members["one"].waits_for == "b"
    assert members["one"].holds[0][0] == "a"
    assert members["one"].holds[0][1] > 0.0
    assert members["two"].waits_for == "a"
    assert members["two"].holds[0][0] == "b"


async def test_circle_of_thread_and_tasks_is_reported_with_all_members(unordered):
    a, b, c = unordered
    caught = []

    def in_thread():
        with a.acquire("thread", timeout=10), b.acquire("thread", timeout=10):
            pass

    async def in_task(first, second, owner):
        async with first.acquire(owner, timeout=10):
            while a.holder is None or b.holder is None or c.holder is None:
                await asyncio.sleep(0.001)
            if owner == "last":
                while len(b) + len(c) < 2:
                    await asyncio.sleep(0.001)
            try:
                async with second.acquire(owner, timeout=10):
                    pass
            except DeadlockDetected as error:
                caught.append(error)

    tasks = [asyncio.create_task(in_task(b, c, "middle")), asyncio.create_task(in_task(c, a, "last"))]
    await asyncio.sleep(0)
    await asyncio.gather(asyncio.to_thread(in_thread), *tasks)
    (error,) = caught
    assert [member.owner for member in error.members] == ["last", "thread", "middle"]
    assert "'last' holds c for" in str(error)


def test_after_a_circle_everybody_else_goes_on_and_nothing_stays_held(unordered):
    assert opposite_orders(rounds=300) > 0


def test_no_circle_is_seen_where_there_is_only_a_queue(unordered, wait_for):
    a, b, _ = unordered

    def take_both(owner):
        with a.acquire(owner, timeout=10), b.acquire(owner, timeout=10):
            time.sleep(0.001)

    people = [Person(take_both, f"{number}") for number in range(8)]
    for person in people:
        person.result()


def test_zero_timeout_never_reports_a_circle_but_gives_up(unordered):
    from coexistence import AcquireTimeout

    a, b, _ = unordered
    with a.acquire("me"), Holder(b.acquire("other")), pytest.raises(AcquireTimeout), b.acquire("me", timeout=0):
        pass
