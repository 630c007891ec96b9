"""One optical bench with every instrument the plans need, and devices of both generations on it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from optics_bench import SPEC, Bench

from simulators import SimulatorProcess


@pytest.fixture(scope="session")
def simulators() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(SPEC) as running:
        yield running


@pytest.fixture(params=["v2", "v4"])
def bench(request: pytest.FixtureRequest, simulators: SimulatorProcess, tmp_path: Any) -> Iterator[Bench]:
    """Return the bench with devices of one generation; faults end with the test."""
    made = Bench(request.param, simulators, tmp_path)
    yield made
    simulators.clear_faults()
    made.close()


@pytest.fixture
def row() -> Callable[[Bench, str], dict[str, Any]]:
    """Return the only row of a kind of result in the last run."""

    def only(bench: Bench, kind: str) -> dict[str, Any]:
        rows = bench.events(f"result_{kind}")
        assert len(rows) == 1
        return rows[0]

    return only
