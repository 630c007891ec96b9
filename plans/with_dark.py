"""The wrapper that takes dark readings with the shutter closed, in the stream `dark` of the same run."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from bluesky.plan_stubs import trigger_and_read
from bluesky.protocols import NamedMovable, Readable
from bluesky.utils import Msg

from plans.checks import Arguments
from plans.relay import Messages, marked, relay
from plans.results import in_run
from plans.shutter import check_shutter, find_shutter, read_shutter, set_shutter

DARK_STREAM = "dark"


def with_dark(
    plan: Messages,
    shutter: NamedMovable[Any],
    detectors: Sequence[Readable[Any]],
    *,
    num: int = 3,
    afterwards: bool = False,
    open_value: Any = True,
    closed_value: Any = False,
) -> Generator[Msg, Any, Any]:
    """Take dark readings at the beginning of each run of a plan, and put the shutter back to what it was.

    Parameters
    ----------
    plan
        Any plan, wrapped or not.
    shutter
        What is set to open and closed, or a laser that has it as `shutter`.
    detectors
        What is read in the dark; detectors that have to be staged must be staged by the plan.
    num
        How many dark readings.
    afterwards
        Take as many again at the end of the run, to see the dark signal drift; not when the run has failed.
    open_value, closed_value
        What the shutter is set to.

    Returns
    -------
    Any
        What the plan returns.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; nothing was done.
    """
    shutter = find_shutter(shutter)
    arguments = Arguments("with_dark")
    arguments.detectors("detectors", detectors)
    arguments.count("num", num)
    check_shutter(arguments, "shutter", shutter, open_value, closed_value)
    yield from arguments.check()
    settings = {
        "wrapper": "with_dark",
        "shutter": shutter.name,
        "detectors": [detector.name for detector in detectors],
        "num": num,
        "afterwards": afterwards,
    }

    def dark() -> Generator[Msg, Any, None]:
        was = yield from read_shutter(shutter)
        for _ in range(num):
            # What resumes a pause may open the shutter: each reading begins again with closing it.
            yield Msg("checkpoint")
            yield from set_shutter(shutter, closed_value)
            yield from trigger_and_read(list(detectors), name=DARK_STREAM)
        if was != closed_value:
            yield from set_shutter(shutter, was)
        yield Msg("checkpoint")

    def before(message: Msg) -> Generator[Msg, Any, Msg]:
        if message.command == "open_run":
            return marked(message, settings)
        if afterwards and message.command == "close_run" and message.kwargs.get("exit_status") in (None, "success"):
            yield from in_run(dark(), message.run)
        return message

    def after(message: Msg, _reply: Any) -> Generator[Msg, Any, None]:
        if message.command == "open_run":
            yield from in_run(dark(), message.run)

    return (yield from relay(plan, before=before, after=after))
