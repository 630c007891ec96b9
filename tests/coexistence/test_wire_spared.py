"""Who may send while a late reply to somebody else is still expected."""

import pytest
from ptys import NEVER_S, echo, instrument_and_port, unanswered, unread

from coexistence import CommandTimeout, Rank


def asks(command: bytes) -> bytes | None:
    return echo(command) if command.endswith(b"?") else None


def silent_then_late(command: bytes) -> float:
    return NEVER_S if command == b"Qslow?" else 0.0


@pytest.fixture
def suspect():
    with instrument_and_port(asks, delay=silent_then_late, port={"late_reply_limit": 60.0}) as (instrument, port):
        unanswered(port.query, b"Qslow?\n", owner="slow")
        yield instrument, port


def test_urgent_command_without_reply_goes_out_at_once(suspect):
    instrument, port = suspect
    port.write(b"STOP\n", owner="stop", rank=Rank.URGENT, timeout=5.0)
    instrument.hurry()
    assert port.query(b"Qnext?\n", owner="next", timeout=10.0) == b"Anext"
    assert instrument.received == [b"Qslow?", b"STOP", b"Qnext?"]
    assert port.stats.late_replies == 1
    assert unread(instrument, port) == b""


async def test_urgent_command_of_a_task_goes_out_at_once(suspect):
    instrument, port = suspect
    await port.write_async(b"STOP\n", owner="stop", rank=Rank.URGENT, timeout=5.0)
    instrument.hurry()
    assert await port.query_async(b"Qnext?\n", owner="next", timeout=10.0) == b"Anext"
    assert instrument.received == [b"Qslow?", b"STOP", b"Qnext?"]


def test_ordinary_command_without_reply_waits(suspect):
    instrument, port = suspect
    with pytest.raises(CommandTimeout) as caught:
        port.write(b"SET\n", owner="set", timeout=0.05)
    assert not caught.value.sent
    instrument.settle()
    assert instrument.received == [b"Qslow?"]


def test_urgent_question_waits_for_its_answer_would_be_the_late_one(suspect):
    instrument, port = suspect
    with pytest.raises(CommandTimeout) as caught:
        port.query(b"Qnext?\n", owner="next", rank=Rank.URGENT, timeout=0.05)
    assert not caught.value.sent
    instrument.hurry()
    assert port.query(b"Qlast?\n", owner="last", rank=Rank.URGENT, timeout=10.0) == b"Alast"
