"""Blocking acquisitions on an event loop's thread: refused at once when they could never end, given up after 50 ms."""

import asyncio
import time

import pytest
from people import Holder, Person, in_line

from coexistence import Arbiter, LoopBlocked, WouldDeadlock


async def _hold_until(arbiter, owner, event, timeout=5.0):
    async with arbiter.acquire(owner, timeout=timeout):
        await event.wait()


async def test_waiting_for_a_task_of_the_same_loop_is_refused_at_once(arbiter):
    done = asyncio.Event()
    task = asyncio.create_task(_hold_until(arbiter, "task", done))
    await asyncio.sleep(0)
    started = time.perf_counter()
    with pytest.raises(WouldDeadlock) as caught, arbiter.acquire("blocking", timeout=20):
        pass
    assert time.perf_counter() - started < 10.0
    assert (caught.value.owner, caught.value.held_by) == ("blocking", "task")
    assert not len(arbiter)
    done.set()
    await task


async def test_waiting_behind_a_queued_task_of_the_same_loop_is_refused_at_once(arbiter):
    with Holder(arbiter.acquire("thread")):
        done = asyncio.Event()
        task = asyncio.create_task(_hold_until(arbiter, "queued task", done))
        while not len(arbiter):
            await asyncio.sleep(0)
        started = time.perf_counter()
        with pytest.raises(WouldDeadlock) as caught, arbiter.acquire("blocking", timeout=20):
            pass
        assert time.perf_counter() - started < 10.0
        assert caught.value.held_by == "queued task"
        assert in_line(arbiter) == ["queued task"]
    done.set()
    await task


async def test_a_queued_task_of_lower_rank_does_not_stand_in_the_way(arbiter):
    from coexistence import Rank

    async def wait():
        async with arbiter.acquire("poll", timeout=5, rank=Rank.BACKGROUND):
            pass

    holder = Holder(arbiter.acquire("thread"))
    task = asyncio.create_task(wait())
    while not len(arbiter):
        await asyncio.sleep(0)
    with pytest.raises(LoopBlocked), arbiter.acquire("blocking", timeout=5):
        pass
    with holder:
        pass
    await task


async def test_waiting_for_another_thread_is_given_up_after_50_ms(arbiter):
    with Holder(arbiter.acquire("thread")):
        started = time.perf_counter()
        with pytest.raises(LoopBlocked) as caught, arbiter.acquire("blocking", timeout=20):
            pass
        elapsed = time.perf_counter() - started
    assert caught.value.held_by == "thread"
    assert 0.05 <= caught.value.waited <= elapsed < 10.0


async def test_short_time_limit_on_a_loop_is_an_ordinary_timeout(arbiter):
    from coexistence import AcquireTimeout

    with Holder(arbiter.acquire("thread")), pytest.raises(AcquireTimeout), arbiter.acquire("blocking", timeout=0.01):
        pass


async def test_blocking_acquisition_of_a_wire_that_becomes_free_in_time_succeeds(arbiter, monkeypatch, wait_for):
    monkeypatch.setattr("coexistence.arbiter.LOOP_PATIENCE_S", 10.0)  # 50 ms are nothing on a busy machine
    with Holder(arbiter.acquire("thread")) as holder:

        def let_go():
            wait_for(lambda: len(arbiter) == 1)
            holder.let_go()

        letting_go = Person(let_go)
        with arbiter.acquire("blocking", timeout=20) as hold:
            assert 0.0 < hold.waited < 10.0
        letting_go.result()


async def test_waiting_for_a_thread_that_waits_for_this_loop_is_refused(arbiter):
    """The circle leads over a second wire back to a task of this loop."""
    other = Arbiter("other wire")
    done = asyncio.Event()
    task = asyncio.create_task(_hold_until(other, "task", done))
    await asyncio.sleep(0)

    def hold_one_and_wait_for_the_other():
        with arbiter.acquire("thread"), other.acquire("thread", timeout=5):
            pass

    thread = asyncio.create_task(asyncio.to_thread(hold_one_and_wait_for_the_other))
    while not len(other):
        await asyncio.sleep(0.001)
    with pytest.raises(WouldDeadlock) as caught, arbiter.acquire("blocking", timeout=5):
        pass
    assert caught.value.held_by == "task"
    done.set()
    await task
    await thread


async def test_waiting_for_a_task_of_another_loop_is_allowed(arbiter, monkeypatch):
    import threading

    monkeypatch.setattr("coexistence.arbiter.LOOP_PATIENCE_S", 10.0)
    holding = threading.Event()

    async def hold():
        async with arbiter.acquire("elsewhere"):
            holding.set()
            await asyncio.sleep(0.03)

    thread = asyncio.create_task(asyncio.to_thread(asyncio.run, hold()))
    while not holding.is_set():
        await asyncio.sleep(0)
    with arbiter.acquire("blocking", timeout=5):
        pass
    await thread


async def test_callback_of_the_loop_is_guarded_like_a_task(arbiter):
    done = asyncio.Event()
    task = asyncio.create_task(_hold_until(arbiter, "task", done))
    await asyncio.sleep(0)
    outcome = asyncio.get_running_loop().create_future()

    def callback():
        try:
            with arbiter.acquire("callback", timeout=5):
                pass
        except WouldDeadlock as error:
            outcome.set_result(error)

    asyncio.get_running_loop().call_soon(callback)
    assert (await outcome).held_by == "task"
    done.set()
    await task


async def test_guard_entered_blocking_by_a_task_needs_the_loop_as_well(arbiter):
    """A task may keep a blocking guard across an await; others on the loop must not block on it."""
    done = asyncio.Event()

    async def hold():
        with arbiter.acquire("sync guard"):
            await done.wait()

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    with pytest.raises(WouldDeadlock), arbiter.acquire("blocking", timeout=5):
        pass
    done.set()
    await task
