"""Fixtures for tests of wires: an instrument on a pty and the shared port to it."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from ptys import PATIENCE_S, PtyInstrument

from coexistence import Arbiter, SharedSerialPort

# A machine that stands still for a moment is no property of what is tested.
settings.register_profile("coexistence", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("coexistence")


@pytest.fixture
def arbiter() -> Arbiter:
    return Arbiter("wire")


@pytest.fixture
def instrument(tmp_path, no_descriptor_left_behind) -> Iterator[PtyInstrument]:
    with PtyInstrument(link=tmp_path / "meter") as instrument:
        yield instrument


@pytest.fixture
def port(instrument) -> Iterator[SharedSerialPort]:
    with SharedSerialPort(instrument.path, timeout=PATIENCE_S) as port:
        yield port
