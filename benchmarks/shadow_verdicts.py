"""How often sound pairs are called different, and faults found, by the comparison of shadow readings.

    python -m benchmarks.shadow_verdicts [--pairs N] [--rows N ...] [--faults] [--output FILE]

Pairs of twins are simulated: four readings in turn of one truth, each with noise of its own, for noise of many kinds
(tails from none to those of Student's t with 3 degrees of freedom, skewed, rounded) and truths that stay, step, swing,
drift or wander. Of sound pairs at most 1 % may be called different. Numbers are per cent of the pairs.
"""

from __future__ import annotations

import argparse
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import emit
from plans.shadow import Pairs, Tolerance, compare

Floats = NDArray[np.float64]

NOISES: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda random, n: random.normal(size=n),
    "uniform": lambda random, n: random.uniform(-(3**0.5), 3**0.5, n),
    "Laplace": lambda random, n: random.laplace(size=n) / 2**0.5,
    "Student's t, 3 degrees": lambda random, n: random.standard_t(3, n),
    "exponential": lambda random, n: random.exponential(size=n) - 1,
}
TRUTHS: dict[str, Callable[[Floats], Floats]] = {
    "steady": lambda time: np.full_like(time, 1e-3),
    "stepping": lambda time: 1e-3 * np.sin(0.11 * time) ** 2 + 2e-6,
    "swinging": lambda time: 0.5e-3 * (1 + np.sin(np.pi * time)) + 1e-5,
    "drifting": lambda time: 1e-3 + 1e-6 * time,
    "zero": np.zeros_like,
    "both signs": lambda time: 1e-3 * np.sin(0.11 * time),
}
ROUNDINGS: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda values: values,
    "steps as large as the noise": lambda values: np.round(values / 2e-6) * 2e-6,
    "steps larger than the noise": lambda values: np.round(values / 1e-5) * 1e-5,
    "three digits": lambda values: np.array([float(f"{value:.2e}") for value in values]),
}
FAULTS: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda values: values,
    "lag 50 ms": lambda values: values,
    "scale 2 %": lambda values: 1.02 * values,
    "offset": lambda values: values + 4e-5,
    "dead": np.zeros_like,
    "clipped": lambda values: np.minimum(values, 0.6e-3),
    "sign": lambda values: -values,
    "stuck": lambda values: np.full_like(values, 0.4e-3),
    "stuck at the end": lambda values: np.where(np.arange(len(values)) < 0.8 * len(values), values, 0.4e-3),
    "unit": lambda values: 1e3 * values,
    "inches for mm": lambda values: values / 25.4,
    "1 wild in 200": lambda values: values,
}


def readings(
    seed: int, n: int, truth: str, noise: str, *, rounding: str = "none", fault: str = "none", walk: float = 0.0
) -> Floats:
    """Return rows for :meth:`plans.shadow.Pairs.of`.

    Parameters
    ----------
    seed, n
        Of the random numbers, and how many rows.
    truth, noise, rounding, fault
        Names in the tables above.
    walk
        What the truth wanders, in units per square root of a second.
    """
    random = np.random.default_rng([seed, zlib.crc32(f"{truth}{noise}{rounding}{fault}".encode())])
    times = np.cumsum([np.arange(n) * 0.3, *random.uniform(0.018, 0.03, (3, n))], axis=0)
    twin_first = np.arange(n) % 2 == 1
    times = np.where(twin_first, times[[1, 0, 3, 2]], times)
    wandered = np.zeros_like(times)
    if walk:
        order = np.argsort(times, axis=None)
        steps = np.diff(times.flat[order], prepend=0.0)
        wandered.flat[order] = np.cumsum(walk * np.sqrt(steps) * random.normal(size=times.size))
    columns: list[Floats] = []
    for place, when in enumerate(times):
        of_twin = place % 2 == 1
        values = TRUTHS[truth](when - (0.05 if of_twin and fault == "lag 50 ms" else 0.0)) + wandered[place]
        values = values + NOISES[noise](random, n) * (2e-6 + 1e-3 * np.abs(values))
        if of_twin:
            values = FAULTS[fault](values)
            if fault == "1 wild in 200":
                values = np.where(random.random(n) < 1 / 200, 1.5 * values, values)
        columns += [ROUNDINGS[rounding](values), when]
    return np.transpose(columns)


def sound_cases() -> dict[str, dict[str, Any]]:
    """Return what to call `readings` with, for pairs without a fault."""
    truths = ("steady", "stepping", "swinging", "drifting", "zero")
    cases: dict[str, dict[str, Any]] = {
        f"{noise}, {truth}": {"noise": noise, "truth": truth} for noise in NOISES for truth in truths
    }
    for rounding in list(ROUNDINGS)[1:]:
        cases[f"{rounding}, stepping"] = {"noise": "normal", "truth": "stepping", "rounding": rounding}
    cases["normal, wandering"] = {"noise": "normal", "truth": "steady", "walk": 1e-5}
    cases["Student's t, wandering"] = {"noise": "Student's t, 3 degrees", "truth": "steady", "walk": 1e-5}
    return cases


def faulty_cases() -> dict[str, dict[str, Any]]:
    """Return what to call `readings` with, for pairs with one fault each."""
    return {
        f"{fault}, {noise}": {
            "fault": fault,
            "noise": noise,
            "truth": "swinging" if fault == "lag 50 ms" else "both signs" if fault == "sign" else "stepping",
        }
        for fault in list(FAULTS)[1:]
        for noise in ("normal", "Laplace", "Student's t, 3 degrees")
    }


def verdicts(case: dict[str, Any], seeds: Sequence[int], n: int, tolerance: Tolerance) -> Counter[str]:
    """Return how often each verdict was given."""
    return Counter(compare("power", Pairs.of(readings(seed, n, **case)), tolerance).verdict for seed in seeds)


def measure(cases: dict[str, dict[str, Any]], pairs: int, rows: Sequence[int]) -> dict[str, Any]:
    """Return per cent of the pairs by case and number of rows."""
    found: dict[str, Any] = {}
    chunks = [range(first, min(first + 100, pairs)) for first in range(0, pairs, 100)]
    with ProcessPoolExecutor() as executor:
        for name, case in cases.items():
            for n in rows:
                jobs = [executor.submit(verdicts, case, seeds, n, Tolerance()) for seeds in chunks]
                counted = sum((job.result() for job in jobs), Counter[str]())
                found.setdefault(name, {})[f"{n} rows"] = {
                    verdict: round(100 * count / pairs, 2) for verdict, count in counted.items()
                }
                print(name, n, found[name][f"{n} rows"], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rows", type=int, nargs="+", default=[20, 100, 919])
    parser.add_argument("--faults", action="store_true", help="planted faults instead of sound pairs")
    parser.add_argument("--output")
    arguments = parser.parse_args()
    cases = faulty_cases() if arguments.faults else sound_cases()
    emit(measure(cases, arguments.pairs, arguments.rows), arguments.output)


if __name__ == "__main__":
    main()
