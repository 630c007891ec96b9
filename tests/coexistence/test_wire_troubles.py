"""A wire remembers what went wrong on it, in order, so that a run can tell its troubled points."""

import pytest
from people import Holder

from coexistence import AcquireTimeout, CommandTimeout, Rank, WireDisconnected


def kinds(port, number=0):
    return [trouble.kind for trouble in port.wire.troubles_since(number)]


def test_what_goes_well_is_no_trouble(port, instrument):
    port.query(b"Q1?\n", owner="meter")
    assert port.wire.last_trouble == 0
    assert kinds(port) == []


def test_timeouts_and_retries_name_owner_and_command(port, instrument):
    instrument.silent = True
    before = 0
    while "retry" not in kinds(port, before):  # a machine that stands still may take all the time for it
        before = port.wire.last_trouble
        with pytest.raises(CommandTimeout):
            port.query(b"Q1?\n", owner="meter", timeout=0.3, repeatable=True)
    retry, timeout = port.wire.troubles_since(before)
    assert (retry.kind, retry.owner, retry.line, retry.number) == ("retry", "meter", b"Q1?\n", before + 1)
    assert (timeout.kind, timeout.owner, timeout.line, timeout.number) == ("timeout", "meter", b"Q1?\n", before + 2)
    assert retry.time <= timeout.time
    assert port.wire.last_trouble == before + 2
    assert kinds(port, before + 1) == ["timeout"]


async def test_a_turn_that_does_not_come_is_trouble_but_not_for_who_asks_in_the_background(port, instrument):
    with Holder(port.acquire("holder")):
        with pytest.raises(AcquireTimeout):
            port.query(b"Q1?\n", owner="thread", timeout=0.02)
        with pytest.raises(AcquireTimeout):
            await port.query_async(b"Q1?\n", owner="task", timeout=0.02)
        with pytest.raises(AcquireTimeout):
            port.query(b"Q1?\n", owner="shadow", timeout=0.02, rank=Rank.BACKGROUND)
        with pytest.raises(AcquireTimeout):
            await port.query_async(b"Q1?\n", owner="shadow", timeout=0.02, rank=Rank.BACKGROUND)
    assert [(each.kind, each.owner) for each in port.wire.troubles_since(0)] == [
        ("not sent", "thread"),
        ("not sent", "task"),
    ]


def test_a_loss_and_a_return_are_told(port, instrument, wait_for):
    instrument.kill()
    with pytest.raises((CommandTimeout, WireDisconnected)):
        port.query(b"Q1?\n", owner="meter", timeout=0.1)
    instrument.plug_in()
    wait_for(lambda: port.connected)
    told = kinds(port)
    assert told[0] == "disconnected"
    assert "reconnect" in told


def test_memory_of_troubles_is_bounded(port, instrument):
    for _ in range(1500):
        port.wire.record_retry("meter", b"Q1?\n")
    assert len(port.wire.troubles_since(0)) == 1000
    assert port.wire.last_trouble == 1500
