"""Repeat the proofs about wires for hours, and tell what grows.

One round is every proof once. After each round the process's memory, file descriptors and threads are noted; at the
end their slopes are reported, per hour and per round. All tests marked ``soak`` run once before that, in a process
of their own. When benchmarks have a stored baseline, they are run and compared with it.

Exit status: 0 when everything held, 1 when a proof failed or something grew.
"""

import argparse
import gc
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY), *(str(REPOSITORY / "tests" / folder) for folder in ("", "coexistence", "devices"))]

import psutil  # noqa: E402
from proofs import (  # noqa: E402
    crossed_replies,
    late_replies,
    many_exchanges,
    many_wires,
    mutual_exclusion,
    opposite_orders,
    unplug_and_replug,
)
from ptys import PtyInstrument  # noqa: E402
from storm import storm  # noqa: E402

from coexistence import SharedSerialPort  # noqa: E402

WARM_UP_ROUNDS = 2
MEMORY_LIMIT_BYTES_PER_ROUND = 500_000
SLOWER = 1.25
"""A benchmark's median that exceeds its baseline by this factor is reported."""


@dataclass(frozen=True)
class Sample:
    """What the process used after a round."""

    time_s: float
    memory_bytes: int
    descriptors: int
    threads: int


def unplugging(seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "meter"
        with PtyInstrument(link=link) as instrument, SharedSerialPort(instrument.path) as port:
            delays = [unplug_and_replug(instrument, port, 0.1 * ((seed + number) % 7)) for number in range(3)]
    assert min(delays) < 1.0, delays
    return {"longest_s": max(delays)}


def all_instruments(duration_s: float, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        found = storm(Path(folder), duration_s, seed=seed)
    assert not found["wrong"], found
    assert found["all_work"], found
    assert not found["threads"], found
    return found


def one_round(seed: int, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "crossed replies", lambda: crossed_replies(int(20_000 * scale), seed=seed)
    yield "late replies", lambda: late_replies(int(1000 * scale), seed=seed)
    yield "opposite orders", lambda: {"circles": opposite_orders(int(10_000 * scale), seed=seed)}
    yield "mutual exclusion", lambda: mutual_exclusion(20.0 * scale, revocations=seed % 2 == 0, seed=seed)
    yield "unplugging", lambda: unplugging(seed)
    yield "many exchanges", lambda: many_exchanges(int(100_000 * scale))
    yield "many wires", lambda: many_wires(20, 50, 100, max(int(50 * scale), 1))
    yield "all instruments", lambda: all_instruments(120.0 * scale, seed)


def sample() -> Sample:
    gc.collect()
    process = psutil.Process()
    return Sample(time.monotonic(), process.memory_info().rss, process.num_fds(), threading.active_count())


def slopes(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Return how much of each resource is gained per hour and per round, by least squares after the warm-up."""
    steady = samples[WARM_UP_ROUNDS:]
    if len(steady) < 3:
        return {}
    result = {}
    hours = [each.time_s / 3600.0 for each in steady]
    for name in ("memory_bytes", "descriptors", "threads"):
        values = [float(getattr(each, name)) for each in steady]
        per_hour, _ = statistics.linear_regression(hours, values)
        per_round, _ = statistics.linear_regression(range(len(values)), values)
        result[name] = {"per_hour": round(per_hour, 3), "per_round": round(per_round, 3)}
    return result


def medians(results: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every median in a benchmark's JSON with the path to it."""
    if isinstance(results, dict):
        for name, value in results.items():
            if name == "median":
                yield path, float(value)
            else:
                yield from medians(value, f"{path}/{name}" if path else name)


def compare_benchmarks(baselines: Path, *, store: bool, quick: bool) -> dict[str, dict[str, float]]:
    """Run the benchmarks that have a stored baseline (all, to store them) and return the medians that are slower."""
    slower: dict[str, dict[str, float]] = {}
    for program in sorted((REPOSITORY / "benchmarks").glob("[a-z]*.py")):
        baseline = baselines / f"{program.stem}.json"
        if "--output" not in program.read_text(encoding="utf-8") or not (store or baseline.exists()):
            continue
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "results.json"
            command = [sys.executable, str(program), "--output", str(output), *(["--quick"] if quick else [])]
            subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
            text = output.read_text(encoding="utf-8")
        if store:
            baselines.mkdir(parents=True, exist_ok=True)
            baseline.write_text(text, encoding="utf-8")
            continue
        before = dict(medians(json.loads(baseline.read_text(encoding="utf-8"))))
        for name, value in medians(json.loads(text)):
            if before.get(name) and value > SLOWER * before[name]:
                slower[f"{program.stem}: {name}"] = {"baseline": before[name], "now": value}
    return slower


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=0.0, help="how long to repeat the proofs; 0: one round")
    parser.add_argument("--scale", type=float, default=1.0, help="size of a round; 0.01 is a try-out")
    parser.add_argument("--report", type=Path, help="also write the report, as JSON, to this file")
    parser.add_argument("--baselines", type=Path, default=REPOSITORY / "benchmarks" / "baselines")
    parser.add_argument("--store-baselines", action="store_true", help="run the benchmarks and keep their results")
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests marked soak")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    failures: list[str] = []

    if not arguments.no_tests:
        command = [sys.executable, "-m", "pytest", "-m", "soak", "--timeout", "3600", "-q"]
        if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
            failures.append("tests marked soak")

    end = time.monotonic() + arguments.hours * 3600.0
    samples: list[Sample] = []
    number = 0
    while number == 0 or time.monotonic() < end:
        number += 1
        for name, proof in one_round(number, arguments.scale):
            started = time.monotonic()
            try:
                outcome = json.dumps(proof())
            except Exception:
                traceback.print_exc()
                failures.append(f"round {number}: {name}")
                outcome = "FAILED"
            print(f"round {number}: {name}: {outcome} in {time.monotonic() - started:.1f} s", flush=True)
        samples.append(sample())
        print(f"round {number}: {asdict(samples[-1])}", flush=True)

    grown = slopes(samples)
    if grown:
        limits = {"memory_bytes": MEMORY_LIMIT_BYTES_PER_ROUND, "descriptors": 0.01, "threads": 0.01}
        failures += [f"{name} grow" for name, limit in limits.items() if grown[name]["per_round"] > limit]
    slower = compare_benchmarks(arguments.baselines, store=arguments.store_baselines, quick=arguments.scale < 1.0)
    report = {"rounds": number, "failures": failures, "slopes": grown, "slower_than_baseline": slower}
    print(json.dumps(report, indent=2))
    if arguments.report is not None:
        arguments.report.write_text(json.dumps({**report, "samples": [asdict(each) for each in samples]}, indent=2))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
