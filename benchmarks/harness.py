"""Measure alternatives side by side in one run: interleaved rounds, medians, spreads and ratios, as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any


def pin(cpu: int) -> None:
    """Keep this process on one CPU where the system can; with a single CPU nothing is pinned."""
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(available) > 1:
        os.sched_setaffinity(0, {available[cpu % len(available)]})


def timed(function: Callable[[], object], repeat: int) -> float:
    """Return the seconds that one of ``repeat`` calls took on average."""
    started = perf_counter()
    for _ in range(repeat):
        function()
    return (perf_counter() - started) / repeat


def interleave(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run each measure once a round, in turn, so that a slow moment of the machine meets all of them."""
    for measure in measures.values():
        measure()
    results: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            results[name].append(measure())
    return results


def summary(values: list[float], unit: float = 1e-6) -> dict[str, float]:
    """Return median, quartiles and 95th percentile in units of ``unit`` seconds."""
    ordered = sorted(values)
    quartiles = statistics.quantiles(ordered, n=4)
    return {
        "median": round(statistics.median(ordered) / unit, 3),
        "q1": round(quartiles[0] / unit, 3),
        "q3": round(quartiles[2] / unit, 3),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))] / unit, 3),
        "rounds": len(ordered),
    }


def ratio(values: list[float], reference: list[float]) -> float:
    """Return the median over the rounds of one measure over another of the same round."""
    return round(statistics.median(a / b for a, b in zip(values, reference, strict=True)), 3)


def machine() -> dict[str, Any]:
    """Describe where this ran."""
    return {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}


def emit(results: Mapping[str, Any], path: str | None = None) -> None:
    """Print the results as JSON, and write them to a file if asked to."""
    text = json.dumps({"machine": machine(), **results}, indent=2)
    print(text)
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    sys.stdout.flush()
