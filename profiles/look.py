"""`tandem wires` and `tandem health`: a look into running sessions from another terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from profiles.console import say
from profiles.control import RunningSession, SessionGone, running_sessions
from profiles.control.directory import control_directory
from profiles.health_report import print_health
from profiles.wire_report import print_wires

Question = Literal["wires", "health"]

_PRINT: dict[Question, Callable[[Any, Console], None]] = {"wires": print_wires, "health": print_health}


def look(
    question: Question,
    *,
    session: str | None,
    data_dir: Path | None,
    json_output: bool,
    watch: bool,
    every_s: float,
) -> int:
    """Ask running sessions and print what they answer; return the exit code.

    Parameters
    ----------
    question
        What to look at.
    session
        Only the session of this process id or name.
    data_dir
        Only sessions whose runs are kept there.
    json_output
        Print one JSON object in a line, each time anew when watching.
    watch
        Go on until Ctrl-C, or until the last of the sessions has ended.
    every_s
        How long to wait between two looks, in s.
    """
    console = Console()
    with running_sessions(data_dir) as found:
        chosen = [each for each in found if session is None or session in (str(each.pid), each.facts["name"])]
        if not chosen:
            _tell_there_is_none(found, session, data_dir, json_output)
            return 1
        while True:
            answers = _ask(chosen, question)
            if not answers:
                say(Console(stderr=True), "The session has ended.")
                return 0 if watch else 1
            if json_output:
                shown = [{**each.facts, "plan": plan, question: answer} for each, plan, answer in answers]
                print(json.dumps({"sessions": shown}), flush=True)
            else:
                if watch:
                    console.clear()
                _print(question, answers, console)
            if not watch:
                return 0 if question == "wires" or all(answer["healthy"] for _, _, answer in answers) else 1
            time.sleep(every_s)


def heading(facts: dict[str, Any], plan: dict[str, Any]) -> str:
    """Return a line that says which session it is and what it is doing."""
    began = datetime.fromtimestamp(facts["began"]).strftime("%Y-%m-%d %H:%M")
    simulated = ", simulated" if facts["simulated"] else ""
    return (
        f"{facts['name']}: process {facts['pid']}, {facts['state']} since {began}{simulated}; runs in "
        f"{facts['data_dir']}\n{doing(plan)}"
    )


def doing(plan: dict[str, Any]) -> str:
    """Return what a session's RunEngine is doing, in words."""
    run = plan["run"]
    if run is None:
        last = plan["last_run"]
        ended = f"; scan {last['scan_id']} ({last['plan_name']}) was its last: {last['exit_status']}" if last else ""
        return f"RunEngine {plan['state']}{ended}"
    of = f" of {run['expected_points']}" if run["expected_points"] else ""
    return f"RunEngine {plan['state']}: scan {run['scan_id']} ({run['plan_name']}), {run['points']}{of} points"


def _ask(
    sessions: list[RunningSession], question: Question
) -> list[tuple[RunningSession, dict[str, Any], dict[str, Any]]]:
    answers = []
    for each in list(sessions):
        try:
            each.facts = each.ask("session")
            answers.append((each, each.ask("plan"), each.ask(question)))
        except SessionGone:
            sessions.remove(each)
    return answers


def _print(question: Question, answers: list[tuple[RunningSession, Any, Any]], console: Console) -> None:
    for number, (each, plan, answer) in enumerate(answers):
        if number:
            say(console, "")
        say(console, heading(each.facts, plan))
        _PRINT[question](answer, console)


def _tell_there_is_none(
    found: list[RunningSession], session: str | None, data_dir: Path | None, json_output: bool
) -> None:
    if json_output:
        print(json.dumps({"sessions": []}))
    where = f" with runs in {data_dir}" if data_dir is not None else ""
    if session is not None and found:
        there = ", ".join(f"{each.pid} ({each.facts['name']})" for each in found)
        text = f"no session{where} is called {session!r}; there are: {there}"
    else:
        text = (
            f"no session of yours is running{where}: nothing is listening in {control_directory()}. "
            "Start one with `tandem shell -c bench.toml`, or a script with `tandem run`, and look again."
        )
    print(f"tandem: {text}", file=sys.stderr)
