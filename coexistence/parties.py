"""Who holds and who waits, over all wires: what circles are found in.

A party is a thread or a task. The tables here are changed without a lock where a step is atomic by itself
(``dict.setdefault``, ``dict.pop``), which is what makes a wire that nobody else wants cheap to take and to leave.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coexistence.hold import Hold

Party = threading.Thread | asyncio.Task[Any]
"""Who waits or holds: reentrancy and the wait-for graph go by this object's identity, never by name or number."""

held: dict[Party, Hold] = {}
"""The newest hold of each party; older ones hang on it by ``_outer``."""

waiting: dict[Party, Hold] = {}
"""What each party that waits is waiting for. Changed under ``graph`` only."""

graph = threading.RLock()
"""For the wait-for graph. Taken from the module each time, for a forked child gets a new one."""

running_loop = asyncio._get_running_loop
current_task = asyncio.current_task
threads: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
ident = threading.get_ident


def current_thread() -> threading.Thread:
    """Return the running thread: :func:`threading.current_thread` at a third of its cost."""
    return threads.get(ident()) or threading.current_thread()


def current_party() -> Party:
    """Return the running task, or the running thread where there is no task."""
    loop = running_loop()
    if loop is None:
        return current_thread()
    return current_task(loop) or current_thread()


def holds_of(party: Party) -> Iterator[Hold]:
    """Yield what a party holds, newest first."""
    hold = held.get(party)
    while hold is not None:
        yield hold
        hold = hold._outer


def claim_end(hold: Hold) -> bool:
    """Win the right to end a hold from its party, which claims it by taking the hold out of ``held``."""
    party = hold.party
    if held.get(party) is hold:
        taken = held.pop(party, None)
        if taken is hold:
            if hold._outer is not None:
                held.setdefault(party, hold._outer)
            return True
        if taken is not None:
            held.setdefault(party, taken)  # the party has gone on to another wire between the two steps
        return False
    return any(each is hold for each in holds_of(party))


def unlink(hold: Hold) -> None:
    """Take a hold out of its party's chain, wherever it stands there."""
    party = hold.party
    newest = held.get(party)
    if newest is hold:
        if hold._outer is None:
            del held[party]
        else:
            held[party] = hold._outer
        return
    while newest is not None:
        if newest._outer is hold:
            newest._outer = hold._outer
            return
        newest = newest._outer


def party_is_gone(party: Party) -> bool:
    """Tell whether a party can neither wait nor let go any more."""
    if isinstance(party, threading.Thread):
        return not party.is_alive()
    return party.done() or party.get_loop().is_closed()


def waiting_parties() -> list[tuple[Party, Hold]]:
    """Return who waits for what, over all arbiters."""
    with graph:
        return list(waiting.items())


def forget_wait(party: Party, hold: Hold) -> None:
    """Take a wait out of the wait-for graph."""
    if waiting.get(party) is hold:
        with graph:
            if waiting.get(party) is hold:
                del waiting[party]


def forget_all_waits() -> None:
    """Have nobody hold or wait, in a forked child."""
    global graph
    graph = threading.RLock()
    held.clear()
    waiting.clear()
