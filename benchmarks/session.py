"""How long a session takes to its prompt, with the parts of it, and what the runtime's transitions cost.

    python -m benchmarks.session [--quick] [--output FILE]

The prompt is that of `tandem shell --simulate` on profiles/sim, in a real terminal, from the start of the process
(goal: 3 s). Its parts are timed in a process of their own, in the order in which they come. Transitions are timed with
instruments that have nothing to do (goal: less than 1 ms each, apart from the work itself).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pexpect

from benchmarks.harness import emit, summary
from coexistence import DualRuntimeManager
from coexistence.runtime import Transition

GOAL_S = 3.0
TRANSITION_GOAL_S = 1e-3

PARTS = """
import json, sys, time
marks = [("start of Python", time.time())]
def mark(name):
    marks.append((name, time.time()))
import profiles.session
mark("imports")
from profiles.configuration import load_configuration
config = load_configuration("sim")
mark("configuration")
Session = profiles.session.Session
for name, what in (
    ("_open_capture", "journal"),
    ("_begin_simulators", "simulators begun"),
    ("_make_run_engine", "RunEngine, with ophyd"),
    ("_make_manager", "device classes, simulators there"),
):
    def timed(self, original=getattr(Session, name), what=what):
        result = original(self)
        mark(what)
        return result
    setattr(Session, name, timed)
with Session.open(config, simulate=True, data_dir=sys.argv[1], display=True, connect_wait=2.0) as session:
    mark("connecting")
    import IPython.terminal.ipapp
    mark("IPython")
    from profiles.prompt_names import prompt_names
    prompt_names(session)
    mark("names")
print(json.dumps(marks))
"""


class Idle:
    """A v2 instrument that has nothing to do."""

    connect_timeout = 1.0

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, fresh: bool) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass

    def health(self) -> str:
        return "well"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", help="also write the JSON to this file")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else 10
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        try:
            _prompt(data_dir)  # the first one starts the catalog and compiles
            results = {
                "prompt": prompts(data_dir, rounds),
                "transitions": transitions(200 if arguments.quick else 2000),
            }
        finally:
            from catalog import shut_down

            shut_down(data_dir, timeout=60)
    emit(results, arguments.output)


def prompts(data_dir: Path, rounds: int) -> dict[str, Any]:
    """Time the way to the prompt, and its parts."""
    times = [_prompt(data_dir) for _ in range(rounds)]
    parts: dict[str, list[float]] = {}
    for _ in range(rounds):
        began = time.time()
        command = [sys.executable, "-c", PARTS, str(data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before = began
        for name, when in json.loads(done.stdout.splitlines()[-1]):
            parts.setdefault(name, []).append(when - before)
            before = when
    return {
        "s": summary(times, 1.0),
        "parts_ms": {name: round(1e3 * statistics.median(values), 1) for name, values in parts.items()},
        "goal_s": GOAL_S,
        "goal_met": statistics.median(times) < GOAL_S,
    }


def transitions(rounds: int) -> dict[str, Any]:
    """Time the changes of state of a runtime from one that is told to the next."""
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        manager = DualRuntimeManager(v2=[Idle("idle")])
        told: list[tuple[float, Transition]] = []
        manager.add_listener(lambda transition, told=told: told.append((time.perf_counter(), transition)))
        for name, call in (("start", manager.start), ("shutdown", manager.shutdown)):
            began = time.perf_counter()
            call()
            taken.setdefault(f"{name}()", []).append(time.perf_counter() - began)
        for (earlier, _), (later, transition) in itertools.pairwise(told):
            if transition.before.value != "running" or transition.subject != "runtime":
                taken.setdefault(f"{transition.subject}: {transition.after.value}", []).append(later - earlier)
    slowest = max(statistics.median(values) for name, values in taken.items() if not name.endswith("()"))
    return {
        "us": {name: summary(values) for name, values in taken.items()},
        "under_1_ms": slowest < TRANSITION_GOAL_S,
    }


def _prompt(data_dir: Path) -> float:
    command = ["-c", "from profiles.cli import main; main()", "shell", "--simulate", "--data-dir", str(data_dir)]
    with tempfile.TemporaryDirectory() as home:
        environment: Any = {**os.environ, "IPYTHONDIR": home, "TERM": "dumb"}
        began = time.perf_counter()
        shell = pexpect.spawn(sys.executable, command, env=environment, encoding="utf-8", timeout=60)
        try:
            shell.expect_exact("In [1]: ")
            took = time.perf_counter() - began
            shell.sendline("exit")
            shell.expect(pexpect.EOF)
        finally:
            shell.close(force=True)
    return took


if __name__ == "__main__":
    main()
