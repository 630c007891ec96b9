"""Holds that end otherwise than by leaving the block: death of the holder, revocation, max_hold, closing."""

import asyncio
import gc
import threading
import time
import weakref

import pytest
from people import Holder, Person, in_line

import coexistence.parties
from coexistence import AcquireTimeout, Arbiter, GuardRevoked, Hold, WireClosed


def _die_holding(arbiter, owner="dead"):
    Person(lambda: arbiter.acquire(owner).__enter__()).result()


def test_wire_of_a_dead_thread_is_free(arbiter):
    _die_holding(arbiter)
    assert arbiter.holder is None
    with arbiter.acquire("heir", timeout=0):
        pass


def test_newcomer_gets_the_wire_of_a_dead_thread_at_once(arbiter):
    _die_holding(arbiter)
    with arbiter.acquire("heir", timeout=0) as hold:
        assert hold.waited < 2.0


def test_who_waits_gets_the_wire_soon_after_the_holder_died(arbiter, wait_for):
    may_die = threading.Event()
    holding = threading.Event()

    def hold_and_die():
        arbiter.acquire("dying").__enter__()
        holding.set()
        may_die.wait(5)

    def wait():
        with arbiter.acquire("heir", timeout=20) as hold:
            return hold.waited

    dying = Person(hold_and_die)
    assert holding.wait(5)
    heir = Person(wait)
    wait_for(lambda: len(arbiter) == 1)
    may_die.set()
    dying.result()
    assert heir.result() < 5.0


async def test_task_that_waits_gets_the_wire_soon_after_the_holder_died(arbiter):
    may_die = threading.Event()
    holding = threading.Event()

    def hold_and_die():
        arbiter.acquire("dying").__enter__()
        holding.set()
        may_die.wait(5)

    dying = Person(hold_and_die)
    await asyncio.to_thread(holding.wait, 5)
    asyncio.get_running_loop().call_later(0.05, may_die.set)
    async with arbiter.acquire("heir", timeout=20) as hold:
        assert hold.waited < 5.0
    dying.result()


async def test_wire_of_a_finished_task_is_free(arbiter):
    async def forget():
        await arbiter.acquire("forgetful").__aenter__()

    await asyncio.create_task(forget())
    async with arbiter.acquire("heir", timeout=0):
        pass


def test_wire_of_a_task_whose_loop_was_closed_is_free(arbiter):
    loop = asyncio.new_event_loop()

    async def forget():
        await arbiter.acquire("forgetful").__aenter__()
        await asyncio.sleep(60)

    task = loop.create_task(forget())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert arbiter.holder.owner == "forgetful"
    loop.close()
    with arbiter.acquire("heir", timeout=5):
        pass
    task._log_destroy_pending = False


def test_wire_handed_to_a_task_whose_loop_was_closed_while_it_waited_goes_on(arbiter):
    loop = asyncio.new_event_loop()

    async def wait():
        async with arbiter.acquire("stranded", timeout=60):
            pass

    with arbiter.acquire("holder"):
        task = loop.create_task(wait())
        loop.run_until_complete(asyncio.sleep(0.01))
        assert len(arbiter) == 1
        loop.close()
    with arbiter.acquire("heir", timeout=5):
        pass
    task._log_destroy_pending = False


def test_tasks_that_the_garbage_collector_ends_let_go_wherever_that_strikes(arbiter, wait_for):
    async def forget(owner: str) -> None:
        async with arbiter.acquire(owner, timeout=60):
            await asyncio.sleep(60)

    def collect() -> None:
        loop = asyncio.new_event_loop()
        held, waiting = forget("holds"), forget("waits")
        tasks = [loop.create_task(each) for each in (held, waiting)]
        loop.run_until_complete(asyncio.sleep(0.01))
        assert (arbiter.holder.owner, in_line(arbiter)) == ("holds", ["waits"])
        with coexistence.parties.graph:
            waiting.close()
        assert in_line(arbiter) == []
        heir = Person(lambda: arbiter.acquire("heir", timeout=5).__enter__())
        wait_for(lambda: len(arbiter) == 1)
        with arbiter._mutex:
            held.close()
        heir.result()
        for task in tasks:
            task._log_destroy_pending = False
        loop.close()

    Person(collect).result()


def test_signal_handler_may_use_a_wire_wherever_it_strikes(arbiter):
    def strike() -> None:
        with (
            coexistence.parties.graph,
            arbiter._mutex,
            pytest.raises(AcquireTimeout),
            arbiter.acquire("handler", timeout=0),
        ):
            pass

    with Holder(arbiter.acquire("meter")):
        Person(strike).result()


def test_batch_of_samples_is_not_waited_for_by_who_is_handing_it_on():
    def hand_on(batch: list[object]) -> None:
        batches.append(len(batch))
        for _ in range(2 * 1024):  # what may end while the batch is made
            with arbiter.acquire("meter"):
                pass

    batches: list[int] = []
    arbiter = Arbiter("wire", on_samples=hand_on)
    with arbiter.acquire("meter"):
        pass
    Person(arbiter.drain_samples).result()
    assert batches == [3]


def test_dead_holders_are_not_kept_in_memory(arbiter):
    thread = Person(lambda: arbiter.acquire("dead").__enter__())
    thread.result()
    assert arbiter.holder is None
    reference = weakref.ref(thread)
    del thread
    gc.collect()
    assert reference() is None


def test_revoked_holder_is_told_at_its_next_use_and_the_next_goes_on(arbiter):
    with arbiter.acquire("stuck") as stuck:

        def take_over():
            assert arbiter.revoke("stuck", "the operator took over")
            with arbiter.acquire("next", timeout=5):
                pass

        Person(take_over).result()
        with pytest.raises(GuardRevoked) as caught:
            stuck.check()
    assert (caught.value.owner, caught.value.reason) == ("stuck", "the operator took over")
    assert arbiter.holder is None


def test_leaving_the_block_after_revocation_does_not_free_the_next_holders_wire(arbiter):
    with arbiter.acquire("stuck"):
        arbiter.revoke()
        holder = Holder(arbiter.acquire("next", timeout=5))
    with holder:
        assert arbiter.holder.owner == "next"
        with pytest.raises(AcquireTimeout), arbiter.acquire("third", timeout=0):
            pass


def test_revoked_holder_may_ask_again_inside_its_old_block(arbiter):
    with arbiter.acquire("stuck") as old:
        arbiter.revoke()
        with arbiter.acquire("stuck", timeout=5) as new:
            new.check()
            with pytest.raises(GuardRevoked):
                old.check()
        assert arbiter.holder is None


def test_revoke_names_an_owner_or_takes_whoever_holds(arbiter):
    assert not arbiter.revoke()
    with arbiter.acquire("meter"):
        assert not arbiter.revoke("laser")
        assert arbiter.holder.owner == "meter"
        assert arbiter.revoke("meter")
        assert not arbiter.revoke("meter")


def test_reentrant_use_of_a_revoked_hold_is_told_too(arbiter):
    with arbiter.acquire("outer"), arbiter.acquire("inner") as inner:
        arbiter.revoke()
        with pytest.raises(GuardRevoked):
            inner.check()


def test_revoked_wire_passes_on_only_when_the_exchange_on_it_has_ended(arbiter, wait_for):
    hold = arbiter.acquire("stuck")

    def work(started, may_end):
        with hold:
            hold.begin_operation()
            started.set()
            may_end.wait(5)
            hold.end_operation()

    started, may_end = threading.Event(), threading.Event()
    worker = Person(work, started, may_end)
    started.wait(5)
    heir = Person(lambda: arbiter.acquire("heir", timeout=5).__enter__())
    wait_for(lambda: len(arbiter) == 1)
    assert arbiter.revoke("stuck")
    time.sleep(0.02)
    assert len(arbiter) == 1
    may_end.set()
    worker.result()
    heir.result()


def test_hold_beyond_max_hold_ends_when_others_wait(arbiter):
    over = threading.Event()

    def stick():
        with arbiter.acquire("stuck", max_hold=0.1) as hold:
            assert over.wait(30)
            with pytest.raises(GuardRevoked) as caught:
                hold.check()
            return caught.value

    stuck = Person(stick)
    while arbiter.holder is None:
        time.sleep(0.001)
    with arbiter.acquire("next", timeout=10):
        pass
    over.set()
    error = stuck.result()
    assert "exceeded its max_hold of 0.1 s while others waited" in error.reason
    assert error.held_for >= 0.1


def test_max_hold_does_not_matter_while_nobody_waits(arbiter):
    with arbiter.acquire("long", max_hold=0.01) as hold:
        time.sleep(0.05)
        assert arbiter.holder is hold
        hold.check()


async def test_max_hold_ends_a_tasks_hold_too(arbiter):
    async with arbiter.acquire("stuck", max_hold=0.05) as hold:

        def take():
            with arbiter.acquire("next", timeout=10):
                pass

        await asyncio.to_thread(take)
        with pytest.raises(GuardRevoked):
            hold.check()


def test_closing_ends_the_wait_of_everybody_with_the_given_error(arbiter, wait_for):
    def wait():
        with pytest.raises(WireClosed) as caught, arbiter.acquire("waiter", timeout=30):
            pass
        return caught.value.owner

    def wait_on_a_loop():
        async def ask():
            async with arbiter.acquire("task", timeout=30):
                pass

        with pytest.raises(WireClosed) as caught:
            asyncio.run(ask())
        return caught.value.owner

    with Holder(arbiter.acquire("holder")):
        thread, loop = Person(wait), Person(wait_on_a_loop)
        wait_for(lambda: len(arbiter) == 2)
        arbiter.close(lambda owner: WireClosed("wire", owner))
        assert thread.result() == "waiter"
        assert loop.result() == "task"
    with pytest.raises(WireClosed), arbiter.acquire("late"):
        pass


def test_closing_takes_the_wire_from_its_holder(arbiter):
    with arbiter.acquire("holder") as hold:
        arbiter.close(lambda owner: WireClosed("wire", owner))
        with pytest.raises(GuardRevoked, match="the wire was closed"):
            hold.check()


def test_arbiter_and_its_holds_are_collected_when_nobody_uses_them():
    arbiter = Arbiter("short-lived")
    hold: Hold = arbiter.acquire("meter")
    with hold:
        pass
    reference = weakref.ref(hold)
    del hold, arbiter
    gc.collect()
    assert reference() is None
