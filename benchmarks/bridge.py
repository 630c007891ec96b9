"""What handing a measurement to the bridge costs its producer, at 10,000 a second from 8 threads and 8 tasks.

    python -m benchmarks.bridge [--seconds S] [--output FILE]

Three subscribers, one of them stuck. Goal: 99 % of the calls within 50 us. `alone` is the same with one producer at
full speed, which shows the cost without the contention for the interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from typing import Any

from benchmarks.harness import emit
from profiles.bridge import MeasurementBridge, UnifiedMeasurement

PRODUCERS = 8
RATE_HZ = 10_000
BURST = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    rounds = [loaded(arguments.seconds / 5) for _ in range(5)]
    emit(
        {
            "at 10,000 a second": {
                "publish, us": {
                    key: [round(each[key], 1) for each in rounds] for key in ("median", "p99", "p99.9", "highest")
                },
                "measurements a second": [round(each["rate"]) for each in rounds],
                "missed by the two that listen": [each["missed"] for each in rounds],
            },
            "alone": {key: round(value, 2) for key, value in alone().items()},
        },
        arguments.output,
    )


def loaded(seconds: float) -> dict[str, float]:
    bridge = MeasurementBridge()
    listening = [bridge.subscribe(capacity=1_000_000) for _ in range(2)]
    bridge.subscribe(capacity=100)
    costs: list[list[float]] = []
    end = time.perf_counter() + seconds

    def burst(name: str, number: int, spent: list[float]) -> None:
        for offset in range(BURST):
            measurement = UnifiedMeasurement(name, "power", float(number + offset), time.time(), "W", "v4")
            began = time.perf_counter()
            bridge.publish(measurement)
            spent.append(time.perf_counter() - began)

    pause = BURST * 2 * PRODUCERS / RATE_HZ

    def thread(name: str) -> None:
        spent: list[float] = []
        costs.append(spent)
        due = time.perf_counter()
        while due < end:
            burst(name, len(spent), spent)
            due += pause
            time.sleep(max(0.0, due - time.perf_counter()))

    async def task(name: str) -> None:
        spent: list[float] = []
        costs.append(spent)
        due = time.perf_counter()
        while due < end:
            burst(name, len(spent), spent)
            due += pause
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def tasks() -> None:
        await asyncio.gather(*(task(f"task{number}") for number in range(PRODUCERS)))

    threads = [threading.Thread(target=thread, args=(f"thread{number}",)) for number in range(PRODUCERS)]
    for each in threads:
        each.start()
    asyncio.run(tasks())
    for each in threads:
        each.join()
    bridge.close()
    everything = sorted(cost for spent in costs for cost in spent)
    missed = sum(subscription.missed for subscription in listening)
    return {**_summary(everything), "rate": len(everything) / seconds, "missed": missed}


def alone(number: int = 50_000) -> dict[str, float]:
    bridge = MeasurementBridge()
    bridge.subscribe(capacity=1000)
    spent = []
    for index in range(number):
        measurement = UnifiedMeasurement("power", "power", float(index), time.time(), "W", "v4")
        began = time.perf_counter()
        bridge.publish(measurement)
        spent.append(time.perf_counter() - began)
    bridge.close()
    return _summary(sorted(spent))


def _summary(ordered: list[float]) -> dict[str, Any]:
    def at(share: float) -> float:
        return 1e6 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {
        "median": 1e6 * statistics.median(ordered),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "highest": 1e6 * ordered[-1],
    }


if __name__ == "__main__":
    main()
