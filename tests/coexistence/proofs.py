"""The long proofs about wires, with their size as a parameter: the suite runs them short, the soak runs them long."""

import asyncio
import random
import threading
import time

from people import Person

from coexistence import Arbiter, DeadlockDetected
from coexistence.arbiter import waiting_parties


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
    assert threading.active_count() < 100
    return len(circles)
