"""Plans made of other plans: every message passes by, and more may be said before and after it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from bluesky.protocols import Triggerable
from bluesky.utils import Msg, ensure_generator

Messages = Generator[Msg, Any, Any] | Iterable[Msg]
"""A plan."""


def relay(
    plan: Messages,
    *,
    before: Callable[[Msg], Generator[Msg, Any, Msg]] | None = None,
    after: Callable[[Msg, Any], Generator[Msg, Any, None]] | None = None,
    failed: Callable[[Exception], Generator[Msg, Any, None]] | None = None,
) -> Generator[Msg, Any, Any]:
    """Pass a plan's messages on.

    What fails, in `before` and `after` too, is raised inside the plan at the message it was about, so that the plan's
    own clean-up runs.

    Parameters
    ----------
    plan
        Whose messages.
    before
        A plan for each message; it returns the message to be sent, which may be another one.
    after
        A plan for each message that has been answered, and its answer. Messages that the RunEngine repeats after a
        pause do not come by again.
    failed
        A plan for each error, before the plan hears of it; an abort is one, a halt is not.

    Returns
    -------
    Any
        What the plan returns.
    """
    inner = ensure_generator(plan)
    reply: Any = None
    error: Exception | None = None
    while True:
        try:
            message = inner.send(reply) if error is None else inner.throw(error)
        except StopIteration as end:
            return end.value
        reply, error = None, None
        try:
            if before is not None:
                message = yield from before(message)
            reply = yield message
            if after is not None:
                yield from after(message, reply)
        except GeneratorExit:
            inner.close()
            raise
        except Exception as raised:
            error = raised
        if error is not None and failed is not None:
            try:
                yield from failed(error)
            except Exception as worse:
                worse.__context__ = error
                error = worse


def marked(open_run: Msg, settings: Mapping[str, Any]) -> Msg:
    """Return the message with a wrapper's settings in the run's `wrappers`, the outermost first."""
    wrappers = [dict(settings), *open_run.kwargs.get("wrappers", ())]
    return open_run._replace(kwargs={**open_run.kwargs, "wrappers": wrappers})


def read_device(device: Any) -> Generator[Msg, Any, dict[str, Any]]:
    """Measure a device outside of any event and return its readings."""
    if isinstance(device, Triggerable):
        group = object()
        yield Msg("trigger", device, group=group)
        yield Msg("wait", None, group=group)
    return (yield Msg("read", device)) or {}
