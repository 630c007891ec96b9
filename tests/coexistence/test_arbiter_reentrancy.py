"""The same thread or task may take a wire that it holds already; nobody else may, not even a child task."""

import asyncio
import threading

import pytest
from people import Person

from coexistence import AcquireTimeout, DeadlockDetected
from coexistence.parties import current_party


def test_thread_takes_a_wire_again_that_it_holds(arbiter):
    with arbiter.acquire("outer") as outer:
        with arbiter.acquire("inner", timeout=0) as inner:
            assert arbiter.holder is outer
            inner.check()
        outer.check()
        assert arbiter.holder is outer
    assert arbiter.holder is None


def test_wire_is_free_only_after_the_outermost_block(arbiter, wait_for):
    def grab():
        with arbiter.acquire("other", timeout=5):
            return True

    with arbiter.acquire("a"):
        with arbiter.acquire("b"), arbiter.acquire("c"):
            other = Person(grab)
            wait_for(lambda: len(arbiter) == 1)
        assert len(arbiter) == 1
    assert other.result()


def test_inner_block_left_by_an_exception_leaves_the_outer_its_wire(arbiter):
    with arbiter.acquire("outer") as outer:
        with pytest.raises(ValueError), arbiter.acquire("inner"):
            raise ValueError
        outer.check()
        assert arbiter.holder is outer


async def test_task_takes_a_wire_again_that_it_holds(arbiter):
    async with arbiter.acquire("outer") as outer, arbiter.acquire("inner", timeout=0):
        await asyncio.sleep(0)
        assert arbiter.holder is outer
        with arbiter.acquire("blocking inner", timeout=0):
            pass
        assert arbiter.holder is outer
    assert arbiter.holder is None


async def test_child_task_does_not_inherit_the_hold(arbiter):
    async with arbiter.acquire("parent"):

        async def child():
            async with arbiter.acquire("child", timeout=0.05):
                pass

        with pytest.raises(AcquireTimeout) as caught:
            await asyncio.create_task(child())
        assert caught.value.held_by == "parent"


async def test_thread_started_by_a_task_does_not_inherit_the_hold(arbiter):
    def other():
        with arbiter.acquire("thread", timeout=0.05):
            pass

    async with arbiter.acquire("task"):
        with pytest.raises(AcquireTimeout):
            await asyncio.to_thread(other)


async def test_tasks_of_one_thread_are_different_parties(arbiter):
    holding = asyncio.Event()

    async def hold():
        async with arbiter.acquire("one"):
            holding.set()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(hold())
    await holding.wait()
    with pytest.raises(AcquireTimeout):
        async with arbiter.acquire("two", timeout=0):
            pass
    await task


def test_parties_go_by_object_and_not_by_thread_number(arbiter):
    """Thread numbers are reused: a new thread must not take itself for a dead one."""
    numbers = set()

    def leave_held():
        numbers.add(threading.get_ident())
        arbiter.acquire("dead").__enter__()

    def ask():
        party = current_party()
        assert arbiter.held_by(party) is None
        with arbiter.acquire("new", timeout=5):
            return threading.get_ident()

    for _ in range(20):
        Person(leave_held).result()
        numbers.add(Person(ask).result())
    assert len(numbers) < 40


async def test_task_that_left_while_its_exchange_is_still_out_waits_like_anybody_else(arbiter):
    """A cancelled exchange outlives its block; asking again is no reentrance and no deadlock."""
    hold = arbiter.acquire("task")
    async with hold:
        hold.begin_operation()
    assert arbiter.holder is hold

    async def end_when_it_waits():
        while not len(arbiter):
            await asyncio.sleep(0.001)
        hold.end_operation()

    ending = asyncio.create_task(end_when_it_waits())
    async with arbiter.acquire("task", timeout=10) as again:
        assert again.waited > 0.0
        assert arbiter.holder is again
    await ending
    assert arbiter.holder is None


async def test_own_unfinished_exchange_is_no_circle(arbiter):
    from coexistence import Arbiter

    other = Arbiter("other wire")
    async with other.acquire("task"):
        hold = arbiter.acquire("task")
        async with hold:
            hold.begin_operation()
        asyncio.get_running_loop().call_later(0.02, hold.end_operation)
        try:
            async with arbiter.acquire("task", timeout=10):
                pass
        except DeadlockDetected:
            pytest.fail("what ends by itself is no member of a circle")
