"""Fixtures for tests of wires: an instrument on a pty and the shared port to it."""

from collections.abc import Iterator

import pytest
from ptys import PATIENCE_S, PtyInstrument

from coexistence import Arbiter, SharedSerialPort


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
