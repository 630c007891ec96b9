"""What the layer of plans costs at each point, beside bluesky's bare plan, in one run.

    python -m benchmarks.plans [--quick] [--output FILE]

Measured on software devices, where a point takes as little as bluesky allows, by the processor time of the RunEngine's
thread, which others on the machine leave alone; and on a simulated power meter behind 9600 baud at real speed, as in a
lab, by the clock: the same positions with `bp.scan` and with `plans.scan`, interleaved (goal: less than 3 % more for
each point), and with fits and wrappers around it, which do more work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import bluesky.plans as bp
from bluesky import RunEngine
from ophyd import Signal
from ophyd.sim import SynAxis, SynSignal

from benchmarks.harness import emit, interleave, ratio, summary
from coexistence import Connection, SharedSerialPort
from devices import registry
from plans import laser_safe, normalised, scan
from simulators import SimulatorProcess, build_spec, default_instrument, default_wire

METER = "Newport1830C"
GOAL = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", help="also write the JSON to this file")
    arguments = parser.parse_args()
    wire = default_wire("meter", [default_instrument(METER)])
    with ExitStack() as stack:
        simulators = stack.enter_context(SimulatorProcess(build_spec([wire], seed=1)))
        run_engine = RunEngine({}, context_managers=[])
        stack.callback(_end_loop, run_engine)
        port = stack.enter_context(SharedSerialPort(simulators.ports["meter"], **registry.line_settings(METER, {})))
        meter = registry.device_class(METER, "v2")(Connection(port, "meter"), name="meter")
        meter.connect()
        stack.callback(meter.destroy)
        software = [SynSignal(name=name, func=lambda: 0.5, kind="hinted") for name in ("signal", "monitor")]
        results = {
            "software": compare(run_engine, software, 10 if arguments.quick else 60, points=100, by=time.thread_time),
            "meter at 9600 baud": compare(
                run_engine, [meter], 3 if arguments.quick else 12, points=20, by=time.perf_counter
            ),
        }
    emit(results, arguments.output)


def compare(
    run_engine: RunEngine, detectors: list[Any], rounds: int, *, points: int, by: Callable[[], float]
) -> dict[str, Any]:
    """Run one scan bare, by our plan, fitted and wrapped, in turn; from the first event to the last, by a clock."""
    motor, shutter = SynAxis(name="motor"), Signal(name="shutter", value=False)
    made: dict[str, Callable[[], Any]] = {
        "bluesky's scan": lambda: bp.scan(detectors, motor, 0, 1, points),
        "our scan": lambda: scan(detectors, motor, 0, 1, points),
        "our scan, fitted": lambda: scan(detectors, motor, 0, 1, points, fit="gaussian"),
    }
    if len(detectors) > 1:
        made |= {
            "in laser_safe": lambda: laser_safe(scan(detectors, motor, 0, 1, points), shutter),
            "normalised": lambda: normalised(scan(detectors, motor, 0, 1, points), "signal", "monitor"),
        }
    found = interleave(
        rounds, {name: lambda make=make: _point_s(run_engine, make(), points, by) for name, make in made.items()}
    )
    bare = found["bluesky's scan"]
    over = {name: round(ratio(values, bare) - 1, 4) for name, values in found.items() if values is not bare}
    return {
        "point_us": {name: summary(values) for name, values in found.items()},
        "over_bluesky": over,
        "over_bluesky_us": {
            name: round(statistics.median(ours - theirs for ours, theirs in zip(values, bare, strict=True)) * 1e6, 2)
            for name, values in found.items()
            if values is not bare
        },
        "under_3_percent": over["our scan"] < GOAL,
        "points": points,
    }


def _point_s(run_engine: RunEngine, plan: Any, points: int, by: Callable[[], float]) -> float:
    times: list[float] = []
    primary: set[str] = set()

    def note(name: str, document: dict[str, Any]) -> None:
        if name == "descriptor" and document["name"] == "primary":
            primary.add(document["uid"])
        elif name == "event" and document["descriptor"] in primary:
            times.append(by())

    run_engine(plan, note)
    assert len(times) == points
    return (times[-1] - times[0]) / (points - 1)


def _end_loop(run_engine: RunEngine) -> None:
    run_engine.loop.call_soon_threadsafe(run_engine.loop.stop)
    run_engine._th.join()


if __name__ == "__main__":
    main()
