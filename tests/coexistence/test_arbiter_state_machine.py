"""Random histories of an arbiter against a model of who holds it and who is in line.

Threads and tasks acquire, release, time out, are cancelled and revoked, die, and leave exchanges behind; after each
step the arbiter must agree with the model, and whoever must have the wire now has it.
"""

import asyncio
import threading
from concurrent.futures import Future
from queue import SimpleQueue

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import coexistence.arbiter
import coexistence.mailbox
from coexistence import AcquireTimeout, Arbiter, GuardNotHeld, GuardRevoked, Rank
from coexistence.parties import held, waiting_parties

PATIENCE_S = 20.0


class ThreadActor:
    def __init__(self, name):
        self.name = name
        self.holds = []
        self._deeds = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self):
        while (order := self._deeds.get()) is not None:
            deed, outcome = order
            try:
                outcome.set_result(deed())
            except BaseException as error:
                outcome.set_exception(error)

    def do(self, deed):
        outcome = Future()
        self._deeds.put((deed, outcome))
        return outcome

    def enter(self, hold):
        return self.do(hold.__enter__)

    def leave(self, hold):
        return self.do(lambda: hold.__exit__(None, None, None))

    def die(self):
        self._deeds.put(None)
        self.thread.join(PATIENCE_S)

    @property
    def is_task(self):
        return False


class TaskActor:
    def __init__(self, name, loop):
        self.name = name
        self.holds = []
        self._loop = loop
        self._deeds = asyncio.Queue()
        self._ended = threading.Event()
        loop.call_soon_threadsafe(self._start)

    def _start(self):
        self.task = self._loop.create_task(self._run(), name=self.name)
        self.task.add_done_callback(lambda _: self._ended.set())

    async def _run(self):
        while (order := await self._deeds.get()) is not None:
            deed, outcome = order
            try:
                outcome.set_result(await deed())
            except asyncio.CancelledError as error:
                outcome.set_exception(error)
                raise
            except BaseException as error:
                outcome.set_exception(error)

    def do(self, deed):
        async def in_task():
            return deed()

        return self._order(in_task)

    def _order(self, deed):
        outcome = Future()
        self._loop.call_soon_threadsafe(self._deeds.put_nowait, (deed, outcome))
        return outcome

    def enter(self, hold):
        return self._order(hold.__aenter__)

    def leave(self, hold):
        return self._order(lambda: hold.__aexit__(None, None, None))

    def cancel(self):
        self._loop.call_soon_threadsafe(self.task.cancel)
        assert self._ended.wait(PATIENCE_S)

    def die(self):
        self._loop.call_soon_threadsafe(self._deeds.put_nowait, None)
        assert self._ended.wait(PATIENCE_S)

    @property
    def is_task(self):
        return True


class ArbiterMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.arbiter = Arbiter("wire")
        self.loop = asyncio.new_event_loop()
        self.loop_thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.loop_thread.start()
        self.born = 0
        self.actors = []
        self.lines = {rank: [] for rank in Rank}  # of (actor, hold, outcome)
        self.holder = None  # the actor that has the wire, or whose unfinished exchange keeps it
        self.root = None
        self.operations = 0
        self.keeps_only_by_exchange = False

    @initialize(threads=st.integers(1, 3), tasks=st.integers(1, 3))
    def people(self, threads, tasks):
        for _ in range(threads):
            self._new_thread()
        for _ in range(tasks):
            self._new_task()

    def _new_thread(self):
        self.born += 1
        self.actors.append(ThreadActor(f"thread {self.born}"))

    def _new_task(self):
        self.born += 1
        self.actors.append(TaskActor(f"task {self.born}", self.loop))

    # The model

    def _waiting(self):
        return [entry for rank in Rank for entry in self.lines[rank]]

    def _idle(self):
        busy = {actor for actor, _, _ in self._waiting()}
        return [actor for actor in self.actors if actor not in busy]

    def _hand_on(self):
        """The wire is free: the first in line has it."""
        self.holder = self.root = None
        self.operations = 0
        self.keeps_only_by_exchange = False
        for rank in Rank:
            if self.lines[rank]:
                actor, hold, outcome = self.lines[rank].pop(0)
                outcome.result(PATIENCE_S)
                self.holder, self.root = actor, hold
                actor.holds.append(hold)
                return

    # What happens

    @rule(data=st.data(), rank=st.sampled_from(Rank))
    def acquire(self, data, rank):
        candidates = [actor for actor in self._idle() if not actor.holds]
        if not candidates:
            return
        actor = data.draw(st.sampled_from(candidates))
        hold = self.arbiter.acquire(actor.name, PATIENCE_S, rank)
        outcome = actor.enter(hold)
        if self.holder is None:
            outcome.result(PATIENCE_S)
            self.holder, self.root = actor, hold
            actor.holds.append(hold)
        else:
            number = len(self._waiting()) + 1
            while len(self.arbiter) != number:
                assert not outcome.done(), outcome.exception()
            self.lines[rank].append((actor, hold, outcome))

    @precondition(lambda self: self.holder is not None)
    @rule(data=st.data(), timeout=st.sampled_from([0.0, 0.003]))
    def acquire_in_vain(self, data, timeout):
        candidates = [actor for actor in self._idle() if not actor.holds]
        if not candidates:
            return
        actor = data.draw(st.sampled_from(candidates))
        outcome = actor.enter(self.arbiter.acquire(actor.name, timeout))
        with pytest.raises(AcquireTimeout) as caught:
            outcome.result(PATIENCE_S)
        assert caught.value.held_by == self.root.owner

    @precondition(lambda self: self.holder is not None and not self.keeps_only_by_exchange)
    @rule()
    def reenter(self):
        hold = self.arbiter.acquire(self.holder.name + " again", 0)
        self.holder.enter(hold).result(PATIENCE_S)
        self.holder.holds.append(hold)

    @rule(data=st.data())
    def leave(self, data):
        candidates = [actor for actor in self._idle() if actor.holds]
        if not candidates:
            return
        actor = data.draw(st.sampled_from(candidates))
        hold = actor.holds.pop()
        actor.leave(hold).result(PATIENCE_S)
        if hold._root is self.root and not any(each._root is self.root for each in actor.holds):
            if actor.is_task and self.operations:
                self.keeps_only_by_exchange = True
            else:
                self._hand_on()

    @precondition(lambda self: self.holder is not None and not self.keeps_only_by_exchange)
    @rule()
    def check(self):
        for hold in self.holder.holds:
            if hold._root is self.root:
                self.holder.do(hold.check).result(PATIENCE_S)

    @precondition(lambda self: self.holder is not None and not self.keeps_only_by_exchange)
    @rule()
    def begin_exchange(self):
        self.root.begin_operation()
        self.operations += 1

    @precondition(lambda self: self.operations)
    @rule()
    def end_exchange(self):
        self.root.end_operation()
        self.operations -= 1
        if self.keeps_only_by_exchange and not self.operations:
            self._hand_on()

    @precondition(lambda self: self.holder is not None and not self.keeps_only_by_exchange)
    @rule()
    def revoke(self):
        root = self.root
        assert self.arbiter.revoke(root.owner)
        assert not self.arbiter.revoke(root.owner) or self.arbiter.holder is not root
        with pytest.raises(GuardRevoked):
            root.check()
        if self.operations:
            self.keeps_only_by_exchange = True
        else:
            self._hand_on()

    @rule()
    def revoke_nobody(self):
        assert not self.arbiter.revoke("nobody of this name")

    @rule(data=st.data())
    def cancel(self, data):
        candidates = [entry for entry in self._waiting() if entry[0].is_task]
        if not candidates:
            return
        entry = data.draw(st.sampled_from(candidates))
        actor, hold, outcome = entry
        actor.cancel()
        assert isinstance(outcome.exception(PATIENCE_S), asyncio.CancelledError)
        self.lines[hold.rank].remove(entry)
        with pytest.raises((GuardNotHeld, GuardRevoked)):
            hold.check()
        self.actors.remove(actor)
        self._new_task()

    @rule(data=st.data())
    def die(self, data):
        candidates = self._idle()
        if not candidates:
            return
        actor = data.draw(st.sampled_from(candidates))
        actor.die()
        self.actors.remove(actor)
        if actor.is_task:
            self._new_task()
        else:
            self._new_thread()
        if actor is not self.holder:
            return
        if actor.is_task and self.operations:
            assert self.arbiter.holder is self.root  # its exchange is still on the wire
            self.keeps_only_by_exchange = True
        else:
            assert self.arbiter.holder is not self.root
            self._hand_on()

    # What must hold at all times

    @invariant()
    def arbiter_agrees(self):
        holder = self.arbiter.holder
        assert holder is self.root
        assert [hold.owner for hold in self.arbiter.queue] == [actor.name for actor, _, _ in self._waiting()]
        assert len(self.arbiter) == len(self._waiting())
        for _, _, outcome in self._waiting():
            assert not outcome.done()

    @invariant()
    def nobody_waits_with_the_wire_free(self):
        assert self.holder is not None or not self._waiting()

    def teardown(self):
        for rank in Rank:
            self.lines[rank], waiting = [], self.lines[rank]
            for actor, _, _ in waiting:
                if actor.is_task:
                    actor.cancel()
                    self.actors.remove(actor)
        self.arbiter.close(lambda owner: GuardNotHeld("wire", owner))
        for actor in self.actors:
            actor.die()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.loop_thread.join(PATIENCE_S)
        self.loop.close()
        assert not [hold for _, hold in waiting_parties() if hold._arbiter is self.arbiter]
        if not self.operations:
            assert not [hold for hold in tuple(held.values()) if hold._arbiter is self.arbiter]


def run_histories(monkeypatch, examples: int, steps: int) -> None:
    for module in (coexistence.arbiter, coexistence.mailbox):
        monkeypatch.setattr(module, "REAP_INTERVAL_S", 0.002)
    run_state_machine_as_test(
        ArbiterMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_arbiter_agrees_with_the_model_in_random_histories(monkeypatch):
    run_histories(monkeypatch, examples=60, steps=40)
