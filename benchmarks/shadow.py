"""What shadow mode costs a scan: the same scan with and without it, in turn, on one simulated bench.

    python -m benchmarks.shadow [--rounds N] [--output FILE]

`extra` is how much longer the scan with its shadow took, in per cent of the one without in the same round; `rows` is
how many rows of evidence a scan gave. Goal: at most 5 % at the default budget.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import bluesky.plans as bp

from benchmarks.harness import emit, summary
from coexistence.config import DualConfig
from plans.shadow import shadowed
from profiles.session import Session

POINTS = 25
BUDGETS = {"default budget, 5 %": 0.05, "waiting time only": 0.0}
CONFIG: dict[str, Any] = {
    "application": {"name": "shadow benchmark", "baseline": False},
    "v2": {"instruments": [{"id": "power", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0"}]},
    "v4": {
        "instruments": [
            {"id": "power_v4", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0"},
            {
                "id": "polarizer",
                "type": "Elliptec",
                "serial_port": "/dev/ttyUSB1",
                "address": "3",
                "simulation": {"optic": "polarizer"},
            },
        ]
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        Session.open(DualConfig.from_mapping(CONFIG), simulate=True, data_dir=directory, strict=True) as session,
    ):
        results = measure(session, arguments.rounds)
    emit(results, arguments.output)


def measure(session: Session, rounds: int) -> dict[str, Any]:
    bare: list[float] = []
    extra: dict[str, list[float]] = {name: [] for name in BUDGETS}
    rows: dict[str, list[int]] = {name: [] for name in BUDGETS}
    scan(session, None)
    for _ in range(rounds):
        duration, _ = scan(session, None)
        bare.append(duration)
        for name, budget in BUDGETS.items():
            shadow, found = scan(session, budget)
            extra[name].append(100 * (shadow / duration - 1))
            rows[name].append(found)
    return {
        "points": POINTS,
        "scan without shadow, s": summary(bare, 1.0),
        "with shadow": {
            name: {
                "extra, per cent": {
                    "median": round(statistics.median(extra[name]), 2),
                    "lowest": round(min(extra[name]), 2),
                    "highest": round(max(extra[name]), 2),
                },
                "rows": statistics.median(rows[name]),
            }
            for name in BUDGETS
        },
    }


def scan(session: Session, budget: float | None) -> tuple[float, int]:
    """Rotate the polarizer over 120 degrees; return the time it took and the number of rows of the shadow."""
    devices = session.devices
    plan = bp.scan([devices["power"]], devices["polarizer"], 0, 120, POINTS)
    if budget is not None:
        plan = shadowed(plan, [(devices["power"], devices["power_v4"])], budget=budget)
    rows = 0
    streams: dict[str, str] = {}

    def count(name: str, document: dict[str, Any]) -> None:
        nonlocal rows
        if name == "descriptor":
            streams[document["uid"]] = document["name"]
        elif name == "event" and streams[document["descriptor"]] == "shadow":
            rows += 1

    session.RE(_moved_back(session))
    began = time.perf_counter()
    session.RE(plan, count)
    return time.perf_counter() - began, rows


def _moved_back(session: Session) -> Any:
    from bluesky.plan_stubs import mv

    return mv(session.devices["polarizer"], 0.0)


if __name__ == "__main__":
    main()
