"""Plans run several times: one of them again and again, or several in turn."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

from bluesky.plan_stubs import checkpoint, sleep
from bluesky.utils import Msg

from plans.checks import Arguments
from plans.relay import Messages, relay

MakePlan = Callable[[], Messages]
"""Makes a plan anew each time: ``partial(scan, [meter], stage, 0, 1, 11)``."""


def repeat(make_plan: MakePlan, times: int, *, delay: float = 0.0) -> Generator[Msg, Any, list[Any]]:
    """Run a plan several times; each time is a run of its own.

    The runs know each other by `series` in their start documents: a common `uid`, their `number` from 1, and `of`.

    Parameters
    ----------
    make_plan
        Makes the plan each time.
    times
        How often.
    delay
        Time between the end of one and the beginning of the next, in s.

    Returns
    -------
    list
        What the plan returned, each time.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; nothing has moved.
    """
    return (yield from _in_turn(Arguments("repeat"), [make_plan], times, delay))


def interleave(
    make_plans: Sequence[MakePlan],
    times: int,
    *,
    delay: float = 0.0,
    order: Literal["same", "alternating"] = "same",
) -> Generator[Msg, Any, list[Any]]:
    """Run several plans in turn, several times: sample and reference, for one.

    In the `alternating` order every second round goes backwards (A B, B A, …), which takes a steady drift out of the
    difference of their means. The runs know each other by `series`, see :func:`repeat`; `plan` in it counts the plans.

    Parameters
    ----------
    make_plans
        Make the plans each time.
    times
        How many rounds.
    delay
        Time between the end of one and the beginning of the next, in s.
    order
        `same` or `alternating`.

    Returns
    -------
    list
        What the plans returned, in the order in which they ran.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; nothing has moved.
    """
    arguments = Arguments("interleave")
    if not make_plans:
        arguments.problem("make_plans", [], "at least one function that makes a plan")
    arguments.choice("order", order, ("same", "alternating"))
    return (yield from _in_turn(arguments, make_plans, times, delay, alternating=order == "alternating"))


def _in_turn(
    arguments: Arguments, make_plans: Sequence[MakePlan], times: int, delay: float, *, alternating: bool = False
) -> Generator[Msg, Any, list[Any]]:
    for make in make_plans:
        if not callable(make):
            one = "make_plan" if arguments.plan == "repeat" else "make_plans"
            arguments.problem(one, make, "a function that makes the plan: partial(scan, ...), not scan(...)")
    arguments.count("times", times)
    arguments.number("delay", delay, low=0, units="s")
    yield from arguments.check()
    uid, number, returned = str(uuid.uuid4()), 0, []
    for turn in range(times):
        backwards = alternating and turn % 2 == 1
        for plan_number in reversed(range(len(make_plans))) if backwards else range(len(make_plans)):
            if number and delay:
                yield from checkpoint()
                yield from sleep(delay)
            number += 1
            series = {"uid": uid, "number": number, "of": times * len(make_plans), "plan": plan_number + 1}
            returned.append((yield from relay(make_plans[plan_number](), before=_numbered(series))))
    return returned


def _numbered(series: dict[str, Any]) -> Callable[[Msg], Generator[Msg, Any, Msg]]:
    def before(message: Msg) -> Generator[Msg, Any, Msg]:
        yield from ()
        if message.command == "open_run":
            return message._replace(kwargs={**message.kwargs, "series": series})
        return message

    return before
