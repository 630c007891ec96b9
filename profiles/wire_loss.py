"""A plan that loses a wire waits for it, goes back to its last checkpoint, and goes on: each point is recorded once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from bluesky import RunEngine
from bluesky.utils import FailedStatus, Msg, RunEngineControlException, ensure_generator

from coexistence import AcquireTimeout, CommandTimeout, SharedResources, WireDisconnected
from coexistence.channel import ConnectionEvent
from profiles import baseline

logger = logging.getLogger("profiles.wire_loss")

ATTEMPTS = 5
"""How often one point is tried again while its wire is there but fails, before the plan hears of it."""

STATUS_TIMEOUT_S = 15.0
"""How long the motions and measurements that were under way may take to end."""

_LOOK_S = 0.05
_AFTER_RETURN_S = 3.0
"""An error that comes this long (s) after a wire was lost or came back is taken for a consequence of it.

More than a busy machine stands still: who waited in vain may hear of it only when the wire is back for a while.
"""

_NOT_REPEATABLE = frozenset({"open_run", "close_run", "stage", "unstage", "monitor", "unmonitor", "save", "collect"})
"""Messages whose effect cannot be had twice; what went before them is not repeated either."""

_STARTS_FLYING = frozenset({"kickoff", "complete", "prepare"})


class WireWatch:
    """Knows which wires are lost now, and which were a moment ago.

    Parameters
    ----------
    resources
        The wires; those that are opened later are found by :meth:`refresh`.
    """

    def __init__(self, resources: SharedResources) -> None:
        self._resources = resources
        self._removers: dict[int, Callable[[], None]] = {}
        self._changed_at: dict[str, float] = {}

    def refresh(self) -> None:
        """Listen to wires that were opened since."""
        for wire in self._resources.wires:
            for channel in wire.channels:
                if id(channel) not in self._removers:
                    self._removers[id(channel)] = channel.add_listener(self._note)

    def close(self) -> None:
        """Listen no more."""
        for remove in self._removers.values():
            remove()
        self._removers.clear()

    def lost(self) -> set[str]:
        """Return the names of the connections that are lost now."""
        return {channel.name for wire in self._resources.wires for channel in wire.channels if not channel.connected}

    def behind(self, error: BaseException) -> set[str]:
        """Return the connections whose loss an error comes from, those that are back among them; empty for others."""
        found: set[str] = set()
        for cause in _causes(error):
            if isinstance(cause, WireDisconnected):
                found |= self._connections(cause.wire)
            elif isinstance(cause, AcquireTimeout | CommandTimeout):
                found |= {name for name in self._connections(cause.wire) if self._was_lost(name)}
        return found

    def _connections(self, name: str) -> set[str]:
        """Return the connections a name stands for, which may be that of a wire with several."""
        on_wire = {channel.name for wire in self._resources.wires if wire.name == name for channel in wire.channels}
        return on_wire or {name}

    def _was_lost(self, connection: str) -> bool:
        # Who waits for a lost wire waits until its own deadline, which may come when the wire is just back.
        recently = time.monotonic() - self._changed_at.get(connection, float("-inf")) < _AFTER_RETURN_S
        return recently or connection in self.lost()

    def _note(self, event: ConnectionEvent) -> None:
        self._changed_at[event.wire] = time.monotonic()

    async def wait_until_back(self, connections: set[str]) -> None:
        """Wait until none of these connections is lost."""
        while connections & self.lost():  # noqa: ASYNC110 - what tells of the return may be any thread
            await asyncio.sleep(_LOOK_S)


class WaitForLostWires:
    """For `RE.preprocessors`, after all others: plans wait for lost wires instead of failing.

    When a device fails because its wire is lost, everything the plan has set in motion since its last checkpoint is
    stopped, an event that was begun is dropped, and when the wire is back the messages since the checkpoint are
    processed again. A saved event counts as a checkpoint. A plan that has cleared its checkpoint, or is flying, gets
    the error as if this were not there.

    Parameters
    ----------
    run_engine
        Whose plans they are.
    watch
        Knows the wires.
    tell
        Called with a line for the user at the beginning and end of each wait.
    """

    def __init__(self, run_engine: RunEngine, watch: WireWatch, tell: Callable[[str], object]) -> None:
        self._run_engine = run_engine
        self.watch = watch
        self._tell = tell

    def __call__(self, plan: Generator[Msg, Any, Any]) -> Generator[Msg, Any, Any]:
        """Let a plan wait for lost wires."""
        self.watch.refresh()
        return (yield from _Passage(ensure_generator(plan), self._run_engine, self.watch, self._tell).messages())


class _Passage:
    """One plan on its way through the RunEngine, and what it has asked for since its last checkpoint."""

    def __init__(
        self, plan: Generator[Msg, Any, Any], run_engine: RunEngine, watch: WireWatch, tell: Callable[[str], object]
    ) -> None:
        self._plan = plan
        self._run_engine = run_engine
        self._watch = watch
        self._tell = tell
        self._since: list[Msg] | None = []
        self._statuses: list[Any] = []
        self._movers: dict[int, Any] = {}
        self._open_bundles: dict[Any, str] = {}
        self._saved = 0
        self._failures = 0

    def messages(self) -> Generator[Msg, Any, Any]:
        """Yield what the RunEngine is to do, and return what the plan returns."""
        token = self._run_engine.subscribe(self._note_event, "event")
        try:
            return (yield from self._pass_on())
        finally:
            self._run_engine.unsubscribe(token)

    def _pass_on(self) -> Generator[Msg, Any, Any]:
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                msg = self._plan.send(answer) if error is None else self._plan.throw(error)
            except StopIteration as end:
                return end.value
            answer, error = None, None
            try:
                answer = yield from self._do(msg)
            except GeneratorExit:
                self._plan.close()
                raise
            except BaseException as failure:
                error = failure

    def _do(self, msg: Msg) -> Generator[Msg, Any, Any]:
        """Have a message processed, again after each loss of a wire, and return the answer."""
        before = self._saved
        try:
            answer = yield msg
        except RunEngineControlException:
            raise
        except Exception as error:
            wires = self._watch.behind(error)
            if not wires or not self._is_recoverable(msg, error, wires):
                raise
            if msg.command == "set":
                self._movers[id(msg.obj)] = msg.obj
            yield from self._recover(error, wires)
            if msg.command == "save" and isinstance(error, FailedStatus) and self._saved > before:
                # It was recorded, and what failed was something else that was under way.
                self._note(msg, None)
                return None
            return (yield from self._repeat(msg))
        self._note(msg, answer)
        return answer

    def _repeat(self, msg: Msg) -> Generator[Msg, Any, Any]:
        repeated, self._since = self._since or [], []
        for earlier in repeated:
            yield from self._do(earlier)
        return (yield from self._do(msg))

    def _is_recoverable(self, msg: Msg, error: Exception, wires: set[str]) -> bool:
        if self._since is None:
            return False
        if baseline.STREAM in self._open_bundles.values():
            return False  # the baseline does without devices that cannot be read
        if msg.command in _NOT_REPEATABLE - {"save"}:
            # A status that fails in the same moment leaves it open whether the message took effect.
            return not isinstance(error, FailedStatus)
        self._failures += 1
        return self._failures <= ATTEMPTS or bool(wires & self._watch.lost())

    def _note(self, msg: Msg, answer: Any) -> None:
        command = msg.command
        if command == "create":
            self._open_bundles[msg.run] = msg.kwargs.get("name") or (msg.args[0] if msg.args else "primary")
        elif command in ("save", "drop"):
            self._open_bundles.pop(msg.run, None)
        if command in ("set", "trigger") and answer is not None:
            self._statuses.append(answer)
        if command == "set":
            self._movers[id(msg.obj)] = msg.obj
        if command in _STARTS_FLYING or command == "clear_checkpoint":
            self._since = None
        elif command == "checkpoint":
            self._begin_anew()
        elif self._since is None:
            return  # only the plan itself can say that there is something to go back to again
        elif command in _NOT_REPEATABLE and not self._open_bundles:
            self._begin_anew()
        elif command in _NOT_REPEATABLE:
            self._since = None  # in the middle of another run's event there is nothing to go back to
        else:
            self._since.append(msg)

    def _begin_anew(self) -> None:
        self._since = []
        self._statuses = [status for status in self._statuses if not status.done]
        self._movers.clear()
        self._failures = 0

    def _note_event(self, _name: str, _document: dict[str, Any]) -> None:
        self._saved += 1

    # Recovering

    def _recover(self, error: Exception, wires: set[str]) -> Generator[Msg, Any, None]:
        """Bring everything to rest, drop what was begun, and wait until the wires are back."""
        lost = ", ".join(sorted(wires & self._watch.lost()))
        logger.info("the plan waits for %s", lost or "a wire that was lost", exc_info=error)
        if lost:
            self._tell(f"The plan waits for {lost} and then goes on from its last checkpoint; Ctrl-C twice pauses it.")
        yield from self._tolerant(Msg("wait_for", None, [self._rest]))
        for group in self._groups():
            yield from self._tolerant(Msg("wait", None, group=group))
        for run in list(self._open_bundles):
            yield from self._tolerant(Msg("drop", None, run=run))
        self._open_bundles.clear()
        self._statuses.clear()
        yield from self._tolerant(Msg("wait_for", None, [lambda: self._watch.wait_until_back(wires)]))
        if lost:
            self._tell(f"{lost} is back; the plan goes on.")
        yield from self._tolerant(Msg("checkpoint"))

    def _tolerant(self, msg: Msg) -> Generator[Msg, Any, None]:
        """Have a message processed whatever else fails meanwhile: it is the loss that makes it fail."""
        for _ in range(len(self._statuses) + ATTEMPTS):
            try:
                yield msg
            except RunEngineControlException:
                raise
            except Exception as error:
                logger.debug("while waiting for a wire: %s", error)
                if msg.command in ("wait", "drop"):
                    return  # the RunEngine has forgotten the group, and the event with it
            else:
                return

    def _groups(self) -> Iterator[Any]:
        seen = []
        for msg in self._since or []:
            if msg.command in ("set", "trigger") and (group := msg.kwargs.get("group")) not in seen:
                seen.append(group)
                yield group

    async def _rest(self) -> None:
        """Stop what was set in motion, and wait until everything that was under way has ended."""
        for device in self._movers.values():
            if callable(getattr(device, "stop", None)):
                try:
                    stopping = device.stop(success=True)
                    if asyncio.iscoroutine(stopping):
                        await stopping
                except Exception as error:
                    logger.debug("stopping %s: %s", device, error)
        deadline = time.monotonic() + STATUS_TIMEOUT_S
        while time.monotonic() < deadline and not all(each.done for each in self._statuses):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        for part in error.args if isinstance(error, FailedStatus) else ():
            if callable(getattr(part, "exception", None)):
                yield from _causes(part.exception(timeout=0))
        error = error.__cause__ or error.__context__
