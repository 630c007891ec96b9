"""What went wrong on the wires during a run becomes part of its record: the stream `wires`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bluesky.utils import Msg, ensure_generator

from coexistence import SharedResources
from coexistence.wire import Wire
from coexistence.wire_statistics import Trouble

STREAM = "wires"

_DATA_KEYS: dict[str, dict[str, Any]] = {
    "wire": {"dtype": "string"},
    "owner": {"dtype": "string"},
    "kind": {"dtype": "string"},
    "command": {"dtype": "string"},
    "trouble_time": {"dtype": "number", "dtype_numpy": "<f8", "units": "s"},
    "affected_stream": {"dtype": "string"},
    "affected_seq_num": {"dtype": "integer", "dtype_numpy": "<i8"},
}


class WireRecord:
    """Adds the stream `wires` to runs during which a wire was in trouble; other runs stay as they are.

    Each trouble is one event:

    - `wire`, `owner`: where and whose; `owner` is empty where no exchange was concerned;
    - `kind`: see :class:`coexistence.wire_statistics.Trouble`: `timeout`, `not sent`, `retry`, `disconnected`,
      `reconnect`, `revoked`, `interrupted`, `late`, `stray`;
    - `command`: what was sent, or the line that came late or astray, as Python would print its bytes;
    - `trouble_time`: when, in s since 1970;
    - `affected_stream`, `affected_seq_num`: the event that was being measured: the first one of a bundled stream to
      be saved after the trouble. Empty and 0 when none followed: the trouble came after the last event, or ended the
      run.

    It is a preprocessor and a subscriber of the same RunEngine, for any plan, also with several runs open or several
    streams::

        record = WireRecord(resources)
        RE.preprocessors.append(record)
        RE.subscribe(record.take)

    Parameters
    ----------
    resources
        The wires to look at.
    """

    def __init__(self, resources: SharedResources) -> None:
        self._resources = resources
        self._runs: dict[str, _OpenRun] = {}
        self._streams: dict[str, tuple[_OpenRun, str]] = {}

    def take(self, name: str, document: Mapping[str, Any]) -> None:
        """Learn from a document which event the latest troubles have affected."""
        if name == "event":
            known = self._streams.get(document["descriptor"])
            if known is not None and known[1] in known[0].bundled:
                run, stream = known
                run.attribute(self._resources.wires, stream, document["seq_num"])
        elif name == "descriptor":
            if document["name"] != STREAM and (run_of := self._runs.get(document["run_start"])) is not None:
                self._streams[document["uid"]] = run_of, document["name"]
        elif name == "start":
            self._runs[document["uid"]] = _OpenRun({wire: wire.last_trouble for wire in self._resources.wires})
        elif name == "stop":
            ended = self._runs.pop(document["run_start"], None)
            self._streams = {uid: known for uid, known in self._streams.items() if known[0] is not ended}

    def __call__(self, plan: Iterable[Msg]) -> Generator[Msg, Any, Any]:
        """Return the plan with the events of its runs' troubles."""
        messages = ensure_generator(plan)
        open_runs: dict[object, _OpenRun] = {}
        proceed: Callable[[], Msg] = partial(next, messages)
        while True:
            try:
                message = proceed()
            except StopIteration as end:
                return end.value
            except Exception:
                # The RunEngine closes what the plan left open, without another message.
                for key, run in open_runs.items():
                    yield from self._tell_the_rest(key, run)
                raise
            if message.command == "close_run" and message.run in open_runs:
                yield from self._tell_the_rest(message.run, open_runs.pop(message.run))
            try:
                response = yield message
            except GeneratorExit:
                messages.close()
                raise
            except BaseException as error:
                proceed = partial(messages.throw, error)
                continue
            proceed = partial(messages.send, response)
            if message.command == "open_run":
                if (opened := self._runs.get(response)) is not None:
                    open_runs[message.run] = opened
            elif message.run in open_runs:
                run = open_runs[message.run]
                if message.command == "create":
                    run.bundling = True
                    run.bundled.add(message.kwargs.get("name") or message.args[0])
                elif message.command in ("save", "drop"):
                    run.bundling = False
                    if run.waiting:
                        yield from _tell(message.run, run)

    def _tell_the_rest(self, key: object, run: _OpenRun) -> Generator[Msg, Any, None]:
        run.attribute(self._resources.wires, "", 0)
        if run.waiting:
            if run.bundling:
                yield Msg("drop", run=key)
                run.bundling = False
            yield from _tell(key, run)


@dataclass(eq=False)
class _OpenRun:
    """How far the troubles of each wire are told in one run."""

    seen: dict[Wire, int]
    waiting: list[tuple[Trouble, str, int]] = field(default_factory=list)
    bundled: set[str] = field(default_factory=set)
    bundling: bool = False

    def attribute(self, wires: Iterable[Wire], stream: str, seq_num: int) -> None:
        """Note that all troubles not told yet have affected this event."""
        news: list[Trouble] = []
        for wire in wires:
            if wire.last_trouble != (seen := self.seen.get(wire, 0)):
                found = wire.troubles_since(seen)
                self.seen[wire] = found[-1].number if found else seen
                news += found
        news.sort(key=lambda trouble: trouble.time)
        self.waiting += [(trouble, stream, seq_num) for trouble in news]


class _TroubleReading:
    """One trouble as something to be read; to the RunEngine all of them are the same device.

    A reading keeps its trouble, so that it reads the same when the RunEngine goes back to a checkpoint.
    """

    name = STREAM
    parent = None

    def __init__(self, trouble: Trouble, stream: str, seq_num: int) -> None:
        self._time = trouble.time
        self._values: dict[str, str | float | int] = {
            "wire": trouble.wire,
            "owner": trouble.owner,
            "kind": trouble.kind,
            "command": repr(trouble.line)[2:-1],
            "trouble_time": trouble.time,
            "affected_stream": stream,
            "affected_seq_num": seq_num,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TroubleReading)

    def __hash__(self) -> int:
        return hash(_TroubleReading)

    def read(self) -> dict[str, Any]:
        return {key: {"value": value, "timestamp": self._time} for key, value in self._values.items()}

    def describe(self) -> dict[str, Any]:
        return {key: {"source": "coexistence", "shape": [], **data_key} for key, data_key in _DATA_KEYS.items()}


def _tell(key: object, run: _OpenRun) -> Generator[Msg, Any, None]:
    waiting, run.waiting = run.waiting, []
    for trouble, stream, seq_num in waiting:
        yield Msg("create", None, name=STREAM, run=key)
        yield Msg("read", _TroubleReading(trouble, stream, seq_num), run=key)
        yield Msg("save", run=key)
