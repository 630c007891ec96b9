"""What the devices of both generations cost beyond their wire, in one run.

    python -m benchmarks.devices [--quick] [--output FILE]

Measured on a simulated power meter behind 9600 baud at real speed: one reading with either generation beside a bare
client that asks the same three questions (goal: less than 1 ms more), and one scan with v2, with v4, and with both on
the one wire (goal: both take at most 5 % more than their exchanges do, and no reading is lost). The same scan with a
device of either generation that only waits as long as the exchanges take, on a thread, tells what of it is bluesky's,
ophyd's and ophyd-async's own. ``phases_ms`` tells where a point of the scan with both spends its time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import queue
import select
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import bluesky.plans as bp
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop

from benchmarks.harness import emit, interleave, summary
from coexistence import Connection, SharedSerialPort
from devices import registry
from simulators import SimulatorProcess, build_spec, default_instrument, default_wire

METER = "Newport1830C"
QUESTIONS = (b"U?\n", b"D?\n", b"Q?\n")
"""What a reading asks: units, power and status."""
CONNECT_TIMEOUT_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", help="also write the JSON to this file")
    arguments = parser.parse_args()
    wires = [default_wire(name, [default_instrument(METER)]) for name in ("shared", "bare")]
    with ExitStack() as stack:
        simulators = stack.enter_context(SimulatorProcess(build_spec(wires, seed=1)))
        run_engine = RunEngine({})
        stack.callback(_end_loop, run_engine)
        # A log that keeps every exchange of a scan.
        port = stack.enter_context(
            SharedSerialPort(simulators.ports["shared"], log_size=100_000, **registry.line_settings(METER, {}))
        )
        bare = os.open(simulators.ports["bare"], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        stack.callback(os.close, bare)
        meters = {generation: _connected(generation, port, run_engine) for generation in ("v2", "v4")}
        for meter in meters.values():
            stack.callback(meter.destroy)
        results = {
            "reading": readings(meters, port, bare, 30 if arguments.quick else 200),
            "scan": scans(meters, port, run_engine, 3 if arguments.quick else 10, points=20 if arguments.quick else 50),
        }
    emit(results, arguments.output)


def readings(meters: dict[str, Any], port: SharedSerialPort, bare: int, rounds: int) -> dict[str, Any]:
    """Time one reading of each generation beside a bare client's, on lines of their own, in turn."""
    beyond: dict[str, list[float]] = {name: [] for name in ("v2", "v2, its driver alone", "v4")}

    def measured(name: str, read: Callable[[], float]) -> Callable[[], float]:
        def measure() -> float:
            known = len(port.log)
            took = read()
            beyond[name].append(took - sum(entry.duration for entry in port.log[known:]))
            return took

        return measure

    times = interleave(
        rounds,
        {
            "bare": lambda: _bare_reading(bare),
            "v2": measured("v2", lambda: _v2_reading(meters["v2"])),
            "v2, its driver alone": measured("v2, its driver alone", lambda: _driver_reading(meters["v2"].driver)),
            "v4": measured("v4", lambda: call_in_bluesky_event_loop(_v4_reading(meters["v4"]))),
        },
    )
    over_bare = {
        name: [ours - theirs for ours, theirs in zip(times[name], times["bare"], strict=True)] for name in beyond
    }
    return {
        "ms": {name: summary(values, 1e-3) for name, values in times.items()},
        "over_bare_client_ms": {name: summary(values, 1e-3) for name, values in over_bare.items()},
        "over_logged_exchanges_ms": {name: summary(values, 1e-3) for name, values in beyond.items()},
        "under_1_ms": {name: statistics.median(values) < 1e-3 for name, values in over_bare.items()},
    }


def scans(
    meters: dict[str, Any], port: SharedSerialPort, run_engine: RunEngine, rounds: int, *, points: int
) -> dict[str, Any]:
    """Run one scan with each generation and with both, in turn."""
    both = [meters["v2"], meters["v4"]]
    waiter = Waiter(_wire_s(both[1], port))
    chosen = {"v2 alone": both[:1], "v4 alone": both[1:], "both": both, "both, only waiting": waiter.devices()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}

    def measured(name: str) -> Callable[[], float]:
        def measure() -> float:
            scan = _scan(chosen[name], waiter if name == "both, only waiting" else port, run_engine, points)
            found[name].append(scan)
            return scan["point_s"]

        return measure

    trouble = _trouble(port)
    interleave(rounds, {name: measured(name) for name in chosen})
    results: dict[str, Any] = {"timeouts_retries_and_errors": _trouble(port) - trouble}
    for name, all_scans in found.items():
        warm = all_scans[1:]  # the first one of each imports and compiles
        median = {key: statistics.median(scan[key] for scan in warm) for key in warm[0]}
        results[name] = {
            "point_ms": round(median["point_s"] * 1e3, 3),
            "exchanges_ms": round(median["wire_s"] * 1e3, 3),
            "over_exchanges": round(median["point_s"] / median["wire_s"] - 1, 4),
            "cpu_share": round(median["cpu_share"], 4),
            "cpu_ms_for_each_point": round(median["cpu_share"] * median["point_s"] * 1e3, 3),
            "lost_readings": int(sum(scan["lost"] for scan in all_scans)),
            "scans": len(warm),
            "points": points,
        }
    over = {name: results[name]["over_exchanges"] for name in chosen}
    results["both_within_5_percent"] = over["both"] <= 0.05
    results["both_over_exchanges_beyond_bluesky"] = round(over["both"] - over["both, only waiting"], 4)
    alone = results["v2 alone"]["point_ms"] + results["v4 alone"]["point_ms"]
    results["both_over_the_sum_of_each_alone"] = round(results["both"]["point_ms"] / alone, 4)
    results["phases_ms"] = phases(meters, port, run_engine, points)
    waiter.end()
    return results


def phases(meters: dict[str, Any], port: SharedSerialPort, run_engine: RunEngine, points: int) -> dict[str, float]:
    """Tell what passes between and within the calls of the two devices, for the median point of a scan."""
    marks: list[tuple[float, str]] = []
    old, new = meters["v2"], meters["v4"]
    trigger, measure, read, read_async = old.trigger, old._measure_event, old.read, new.read

    def mark(what: str) -> None:
        marks.append((time.perf_counter(), what))

    def noted(call: Callable[[], Any], before: str, after: str) -> Callable[[], Any]:
        def noting() -> Any:
            mark(before)
            try:
                return call()
            finally:
                mark(after)

        return noting

    async def noting_async() -> Any:
        mark("bluesky: from one reading to the other")
        try:
            return await read_async()
        finally:
            mark("v4: read()")

    old.trigger = noted(trigger, "bluesky: from the event to the next trigger", "v2: trigger()")
    old._measure_event = noted(measure, "v2: to its thread", "v2: measuring")
    old.read = noted(read, "bluesky: from the end of the measurement to reading it", "v2: read()")
    object.__setattr__(new, "read", noting_async)  # ophyd-async keeps the name for itself
    token = run_engine.subscribe(lambda name, _: mark("bluesky: to the event") if name == "event" else None)
    known = len(port.log)
    try:
        run_engine(bp.count([old, new], num=points))
    finally:
        run_engine.unsubscribe(token)
        del old.trigger, old._measure_event, old.read
        object.__delattr__(new, "read")
    took: dict[str, list[float]] = {}
    for (earlier, _), (later, what) in itertools.pairwise(marks):
        took.setdefault(what, []).append((later - earlier) * 1e3)
    found = {what: round(statistics.median(values[1:]), 3) for what, values in took.items()}
    exchanges: dict[str, list[float]] = {}
    for entry in port.log[known:]:
        exchanges.setdefault(entry.owner, []).append(entry.duration * 1e3)
    for generation, phase in (("v2", "v2: measuring"), ("v4", "v4: read()")):
        each = exchanges[meters[generation].name][-points * len(QUESTIONS) :]
        on_wire = statistics.median(map(sum, zip(*[iter(each)] * len(QUESTIONS), strict=True)))
        found[f"{phase}, its exchanges"] = round(on_wire, 3)
        found[f"{phase}, around its exchanges"] = round(found.pop(phase) - on_wire, 3)
    return dict(sorted(found.items()))


def _scan(meters: list[Any], port: Any, run_engine: RunEngine, points: int) -> dict[str, float]:
    events: list[tuple[float, float, dict[str, Any]]] = []

    def note(_: str, document: dict[str, Any]) -> None:
        events.append((time.perf_counter(), time.time(), document))

    token = run_engine.subscribe(note, "event")
    began, used = time.perf_counter(), time.process_time()
    try:
        run_engine(bp.count(meters, num=points))
    finally:
        run_engine.unsubscribe(token)
    cpu_share = (time.process_time() - used) / (time.perf_counter() - began)
    # From event to event: opening and closing a run is no part of a reading.
    (first, first_time, _), (last, last_time, _) = events[0], events[-1]
    wire = sum(entry.duration for entry in port.log if first_time < entry.time <= last_time)
    return {
        "point_s": (last - first) / (points - 1),
        "wire_s": wire / (points - 1),
        "cpu_share": cpu_share,
        "lost": points * len(meters) - _distinct_readings(meters, [event for *_, event in events]),
    }


def _distinct_readings(meters: list[Any], events: list[dict[str, Any]]) -> int:
    """Count readings that are a number and were measured anew for their event."""
    count = 0
    for meter in meters:
        column = f"{meter.name}_power"
        times = [0.0, *(event["timestamps"][column] for event in events)]
        fresh = [later > earlier for earlier, later in itertools.pairwise(times)]
        count += sum(new and math.isfinite(event["data"][column]) for new, event in zip(fresh, events, strict=True))
    return count


class Waited:
    """What one waiting took: looks like an entry of a wire's log."""

    def __init__(self, duration: float) -> None:
        self.time = time.time()
        self.duration = duration


class Waiter:
    """A thread that waits, in place of a wire: what a point costs when the instruments are perfect."""

    def __init__(self, duration_s: float) -> None:
        self.log: list[Waited] = []
        self._duration_s = duration_s
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_and(self, then: Callable[[], object]) -> None:
        """Wait and then call somebody."""
        self._jobs.put(then)

    def end(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (then := self._jobs.get()) is not None:
            started = time.perf_counter()
            time.sleep(self._duration_s)
            self.log.append(Waited(time.perf_counter() - started))
            then()

    def devices(self) -> list[Any]:
        """Return devices of both generations that wait once for each reading and have no instrument."""
        from ophyd import Component, Device, DeviceStatus, Kind, Signal
        from ophyd_async.core import StandardReadable, soft_signal_r_and_setter
        from ophyd_async.core import StandardReadableFormat as Format

        waiter = self

        class WaitingV2(Device):
            power = Component(Signal, value=0.5, kind=Kind.hinted)

            def trigger(self) -> DeviceStatus:
                status = DeviceStatus(self)

                def done() -> None:
                    self.power.put(0.5, force=True)
                    status.set_finished()

                waiter.wait_and(done)
                return status

        class WaitingV4(StandardReadable):
            def __init__(self) -> None:
                with self.add_children_as_readables(Format.HINTED_UNCACHED_SIGNAL):
                    self.power, self._set_power = soft_signal_r_and_setter(float, 0.5)
                super().__init__()
                self.set_name("waiting_v4", child_name_separator="_")

            async def read(self) -> Any:
                loop = asyncio.get_running_loop()
                done = loop.create_future()
                waiter.wait_and(lambda: loop.call_soon_threadsafe(done.set_result, None))
                await done
                self._set_power(0.5)
                return await super().read()

        device = WaitingV4()
        call_in_bluesky_event_loop(device.connect())
        return [WaitingV2(name="waiting_v2"), device]


def _wire_s(meter: Any, port: SharedSerialPort) -> float:
    """Return how long the exchanges of one reading take."""
    known = len(port.log)
    for _ in range(10):
        call_in_bluesky_event_loop(meter.read())
    return sum(entry.duration for entry in port.log[known:]) / 10


def _trouble(port: SharedSerialPort) -> int:
    return port.stats.timeouts + port.stats.retries + port.stats.errors


def _connected(generation: Any, port: SharedSerialPort, run_engine: RunEngine) -> Any:
    connection = Connection(port, f"power_{generation}")
    meter = registry.device_class(METER, generation)(connection, name=f"power_{generation}")
    if generation == "v2":
        meter.connect()
    else:
        asyncio.run_coroutine_threadsafe(meter.connect(timeout=CONNECT_TIMEOUT_S), run_engine.loop).result()
    return meter


def _v2_reading(meter: Any) -> float:
    started = time.perf_counter()
    meter.trigger().wait()
    meter.read()
    return time.perf_counter() - started


def _driver_reading(driver: Any) -> float:
    started = time.perf_counter()
    driver.read("power")
    return time.perf_counter() - started


async def _v4_reading(meter: Any) -> float:
    started = time.perf_counter()
    await meter.read()
    return time.perf_counter() - started


def _bare_reading(descriptor: int) -> float:
    """Ask the same as a driver does, with nothing around it."""
    started = time.perf_counter()
    for question in QUESTIONS:
        os.write(descriptor, question)
        answer = b""
        while not answer.endswith(b"\n"):
            select.select([descriptor], [], [], 1.0)
            answer += os.read(descriptor, 4096)
    return time.perf_counter() - started


def _end_loop(run_engine: RunEngine) -> None:
    run_engine.loop.call_soon_threadsafe(run_engine.loop.stop)
    run_engine._th.join()


if __name__ == "__main__":
    main()
