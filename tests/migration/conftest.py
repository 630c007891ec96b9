"""A catalog of its own for tests of migration: its server starts while the first commands run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog import SessionLease, shut_down
from catalog.launch import start_daemon_if_missing


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("migration") / "tandem-data"
    with SessionLease(directory) as lease:
        start_daemon_if_missing(lease.directory)
        yield directory
    shut_down(directory, timeout=60)
