"""What the catalog's tests share: a RunEngine, data directories, one served catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from catalog_helpers import MeasuringSession

from catalog import CatalogSession


@pytest.fixture
def RE() -> RunEngine:  # noqa: N802 - the name everybody uses
    return RunEngine({})


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogSession]:
    """A session whose catalog server runs, for all tests: it takes seconds to start."""
    session = CatalogSession(tmp_path_factory.mktemp("served") / "data")
    session.catalog(wait=60.0)
    yield session
    session.close(wait_delivered=30.0)


@pytest.fixture
def measuring() -> Iterator[Callable[..., MeasuringSession]]:
    """Start sessions in processes of their own; none outlives the test."""
    sessions: list[MeasuringSession] = []

    def start(data_dir: Path, **options: Any) -> MeasuringSession:
        sessions.append(MeasuringSession(data_dir, **options))
        return sessions[-1]

    yield start
    for session in sessions:
        if session.process.poll() is None:
            session.kill()
