"""What the catalog's tests share: a RunEngine, data directories, one served catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bluesky import RunEngine
from catalog_helpers import MeasuringSession

from catalog import CatalogSession

SERVER_TIMEOUT_S = 180.0
"""A server that takes four seconds to start on a quiet computer may take a minute on a busy one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("server"):
            item.add_marker(pytest.mark.timeout(SERVER_TIMEOUT_S))


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
    session.catalog(wait=120.0)
    yield session
    session.close(wait_delivered=30.0)


@pytest.fixture
def measuring() -> Iterator[Callable[..., MeasuringSession]]:
    """Start sessions in processes of their own; none outlives the test."""
    with ExitStack() as sessions:
        yield lambda data_dir, **options: sessions.enter_context(MeasuringSession(data_dir, **options))
