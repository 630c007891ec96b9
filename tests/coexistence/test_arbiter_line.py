"""Who gets the wire next: the line of an arbiter, its ranks, time limits and ways out."""

import asyncio
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
from machine import TimeTaken
from people import Holder, Person, in_line
from proofs import mutual_exclusion

from coexistence import AcquireTimeout, Arbiter, ConfigError, GuardNotHeld, Rank


def test_free_wire_is_granted_at_once_and_names_its_owner(arbiter):
    assert arbiter.holder is None
    with arbiter.acquire("meter") as hold:
        assert arbiter.holder is hold
        assert hold.owner == "meter"
        assert hold.waited == 0.0
    assert arbiter.holder is None


async def test_free_wire_is_granted_to_a_task_without_a_turn_of_the_loop(arbiter):
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, None)
    async with arbiter.acquire("meter"):
        assert not turns
    assert not turns


def test_ownership_goes_to_the_next_in_line_and_never_to_a_newcomer(arbiter, wait_for):
    order = []

    def wait_and_note(owner):
        with arbiter.acquire(owner, timeout=10):
            order.append(owner)

    with arbiter.acquire("first"):
        people = []
        for number in range(5):
            people.append(Person(wait_and_note, f"waiter {number}"))
            wait_for(lambda number=number: len(arbiter) == number + 1)
    with arbiter.acquire("newcomer", timeout=10):
        order.append("newcomer")
    for person in people:
        person.result()
    assert order == [f"waiter {number}" for number in range(5)] + ["newcomer"]


async def test_threads_and_tasks_stand_in_one_line(arbiter, wait_for):
    order = []

    def in_thread(owner):
        with arbiter.acquire(owner, timeout=10):
            order.append(owner)

    async def in_task(owner):
        async with arbiter.acquire(owner, timeout=10):
            order.append(owner)

    others = []
    async with arbiter.acquire("first"):
        for number in range(6):
            if number % 2:
                others.append(asyncio.to_thread(in_thread, f"{number}"))
                others[-1] = asyncio.ensure_future(others[-1])
            else:
                others.append(asyncio.create_task(in_task(f"{number}")))
            while len(arbiter) <= number:
                await asyncio.sleep(0.001)
        assert in_line(arbiter) == list("012345")
    await asyncio.gather(*others)
    assert order == list("012345")


async def test_two_threads_and_two_tasks_pass_each_other_at_most_once(arbiter):
    order = []
    passed = []
    start = threading.Barrier(3)

    def note(owner, hold, before):
        since = [each for each, granted in order[before:] if granted > hold.deadline - hold.timeout]
        passed.append(max(Counter(since).values(), default=0))
        order.append((owner, hold._acquired_at))

    def in_thread(owner):
        start.wait()
        for _ in range(10):
            before = len(order)
            with arbiter.acquire(owner, timeout=30) as hold:
                note(owner, hold, before)
                time.sleep(0.01)

    async def in_task(owner):
        for _ in range(10):
            before = len(order)
            async with arbiter.acquire(owner, timeout=30) as hold:
                note(owner, hold, before)
                await asyncio.sleep(0.01)

    threads = [Person(in_thread, f"thread {number}") for number in range(2)]
    await asyncio.to_thread(start.wait)
    await asyncio.gather(in_task("task 0"), in_task("task 1"))
    for thread in threads:
        await asyncio.to_thread(thread.result)
    assert len(passed) == 40
    # But for what happens between asking and being in line, which can be long on a busy machine.
    assert sorted(passed)[-4] <= 1


def test_urgent_comes_before_all_who_wait_and_background_after_them(arbiter, wait_for):
    order = []

    def wait_and_note(owner, rank):
        with arbiter.acquire(owner, timeout=10, rank=rank):
            order.append(owner)

    with arbiter.acquire("holder"):
        people = []
        for number, rank in enumerate(
            [Rank.BACKGROUND, Rank.NORMAL, Rank.BACKGROUND, Rank.NORMAL, Rank.URGENT, Rank.URGENT]
        ):
            people.append(Person(wait_and_note, f"{rank.name} {number}", rank))
            wait_for(lambda number=number: len(arbiter) == number + 1)
    for person in people:
        person.result()
    assert order == ["URGENT 4", "URGENT 5", "NORMAL 1", "NORMAL 3", "BACKGROUND 0", "BACKGROUND 2"]


def test_background_gets_the_wire_only_when_nobody_else_waits(arbiter, wait_for):
    stop = threading.Event()
    background = []

    def poll():
        while not stop.is_set():
            with suppress(AcquireTimeout), arbiter.acquire("poll", timeout=0.2, rank=Rank.BACKGROUND) as hold:
                assert not [each for each in arbiter.queue if each.rank is Rank.NORMAL and each.waited]
                background.append(hold.waited)
                time.sleep(0.002)

    def work(owner):
        waits = []
        for _ in range(40):
            with arbiter.acquire(owner, timeout=5) as hold:
                waits.append(hold.waited)
                time.sleep(0.002)
        return waits

    poller = Person(poll)
    workers = [Person(work, f"worker {number}") for number in range(3)]
    try:
        for worker in workers:
            waits = worker.result()
            # At most the other two workers and one poll are ahead, each a little over 2 ms.
            assert sorted(waits)[len(waits) // 2] < 1.0
        wait_for(lambda: background)
    finally:
        stop.set()
        poller.result()


def test_zero_timeout_means_now_or_an_error(arbiter):
    with arbiter.acquire("quick", timeout=0):
        pass
    with Holder(arbiter.acquire("slow")):
        started = time.perf_counter()
        with pytest.raises(AcquireTimeout) as caught, arbiter.acquire("quick", timeout=0):
            pass
        assert time.perf_counter() - started < 5.0
        assert not len(arbiter)
    error = caught.value
    assert (error.wire, error.owner, error.held_by, error.queue) == ("wire", "quick", "slow", ())
    assert error.waited == 0.0
    assert error.held_for > 0.0


async def test_zero_timeout_of_a_task_means_now_or_an_error(arbiter):
    async with arbiter.acquire("quick", timeout=0):
        pass
    with Holder(arbiter.acquire("slow")):
        with pytest.raises(AcquireTimeout):
            async with arbiter.acquire("quick", timeout=0):
                pass
        assert not len(arbiter)


@pytest.mark.parametrize("timeout", [0.03, 0.25])
def test_waiting_thread_gives_up_at_its_time_limit_and_is_told_who_holds_and_waits(arbiter, wait_for, timeout):
    with Holder(arbiter.acquire("slow")):

        def try_it():
            with (
                TimeTaken() as taken,
                pytest.raises(AcquireTimeout) as caught,
                arbiter.acquire("hasty", timeout=timeout),
            ):
                pass
            return caught.value, taken

        def wait_long():
            with arbiter.acquire("patient", timeout=30):
                pass

        patient = Person(wait_long)
        wait_for(lambda: len(arbiter) == 1)
        error, taken = Person(try_it).result()
        assert timeout <= taken.elapsed_s
        assert taken.own_s < timeout + 2.0
        assert in_line(arbiter) == ["patient"]
    patient.result()
    assert (error.held_by, error.queue, error.owner) == ("slow", ("patient",), "hasty")
    assert timeout <= error.waited <= taken.elapsed_s
    assert isinstance(error, TimeoutError)


@pytest.mark.parametrize("timeout", [0.03, 0.25])
async def test_waiting_task_gives_up_at_its_time_limit(arbiter, timeout):
    with Holder(arbiter.acquire("slow")), TimeTaken() as taken, pytest.raises(AcquireTimeout) as caught:
        async with arbiter.acquire("hasty", timeout=timeout):
            pass
    assert timeout <= taken.elapsed_s
    assert taken.own_s < timeout + 2.0
    assert caught.value.held_by == "slow"


def test_an_exception_in_the_block_releases_and_passes(arbiter):
    with pytest.raises(ZeroDivisionError), arbiter.acquire("clumsy"):
        raise ZeroDivisionError
    assert arbiter.holder is None


async def test_an_exception_in_a_tasks_block_releases_and_passes(arbiter):
    with pytest.raises(ZeroDivisionError):
        async with arbiter.acquire("clumsy"):
            raise ZeroDivisionError
    assert arbiter.holder is None


def test_return_from_the_block_releases(arbiter):
    def early():
        with arbiter.acquire("early"):
            return 7

    assert early() == 7
    assert arbiter.holder is None


async def test_cancelled_holder_hands_on(arbiter):
    inside = asyncio.Event()

    async def hold():
        async with arbiter.acquire("cancelled"):
            inside.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(hold())
    await inside.wait()
    task.cancel()
    async with arbiter.acquire("next", timeout=5):
        pass
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_waiter_leaves_the_line(arbiter):
    async with arbiter.acquire("holder"):
        waiters = [asyncio.create_task(_hold_briefly(arbiter, f"{number}")) for number in range(3)]
        while len(arbiter) < 3:
            await asyncio.sleep(0)
        waiters[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiters[1]
        assert in_line(arbiter) == ["0", "2"]
    await asyncio.gather(waiters[0], waiters[2])
    assert arbiter.holder is None


async def _hold_briefly(arbiter, owner):
    async with arbiter.acquire(owner, timeout=5):
        await asyncio.sleep(0)


async def test_waiter_cancelled_just_as_it_is_granted_hands_on(arbiter):
    for _ in range(200):
        hold = arbiter.acquire("holder")
        await hold.__aenter__()
        first = asyncio.create_task(_hold_briefly(arbiter, "first"))
        second = asyncio.create_task(_hold_briefly(arbiter, "second"))
        while len(arbiter) < 2:
            await asyncio.sleep(0)
        hold.release()  # grants to the first, which has not run yet
        assert arbiter.holder.owner == "first"
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        await second
        assert arbiter.holder is None


def test_release_before_the_end_of_the_block_is_final_and_may_be_repeated(arbiter):
    with arbiter.acquire("early") as hold:
        hold.release()
        hold.release()
        assert arbiter.holder is None
        with pytest.raises(GuardNotHeld):
            hold.check()
        with arbiter.acquire("other"):
            pass
    assert arbiter.holder is None


def test_a_hold_that_is_in_use_cannot_be_entered_again_and_is_not_harmed(arbiter):
    hold = arbiter.acquire("greedy")
    with hold:
        with pytest.raises(GuardNotHeld), hold:
            pass
        hold.check()

        def enter():
            with pytest.raises(GuardNotHeld), hold:
                pass

        Person(enter).result()
        hold.check()
        assert arbiter.holder is hold
    assert arbiter.holder is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"owner": ""}, "owner must be a non-empty string"),
        ({"owner": None}, "owner must be a non-empty string"),
        ({"timeout": -0.1}, "timeout must be between 0"),
        ({"timeout": float("nan")}, "timeout must be between 0"),
        ({"timeout": float("inf")}, "nothing waits for ever"),
        ({"timeout": None}, "nothing waits for ever"),
        ({"timeout": "2"}, "not '2'"),
        ({"max_hold": 0}, "max_hold must be above 0"),
        ({"max_hold": "long"}, "max_hold must be above 0"),
        ({"rank": 5}, "rank must be Rank.URGENT, Rank.NORMAL or Rank.BACKGROUND, not 5"),
    ],
)
def test_impossible_requests_are_refused_when_made(arbiter, arguments, says):
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        arbiter.acquire(**{"owner": "meter", **arguments})


def test_waited_and_held_times_reach_the_statistics():
    samples = []
    arbiter = Arbiter("wire", on_samples=samples.extend)
    with Holder(arbiter.acquire("slow")) as holder:

        def wait():
            with arbiter.acquire("patient", timeout=5) as hold:
                time.sleep(0.02)
                return hold.waited

        patient = Person(wait)
        time.sleep(0.05)
        holder.let_go()
        waited = patient.result()
    arbiter.drain_samples()
    figures = {owner: (waited, held) for owner, waited, held in zip(*[iter(samples)] * 3, strict=True)}
    assert figures["slow"][0] == 0.0
    assert figures["slow"][1] >= 0.05
    assert figures["patient"][0] == waited
    assert figures["patient"][1] >= 0.02


@pytest.mark.parametrize("revocations", [False, True], ids=["undisturbed", "with revocations"])
def test_never_two_have_the_wire_and_nobody_waits_in_vain_however_threads_are_switched(revocations):
    counts = mutual_exclusion(0.7, revocations=revocations)
    assert counts["held"] >= 300
    assert bool(counts.get("revoked")) == revocations
