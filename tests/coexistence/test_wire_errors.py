"""Every error as the user reads it, and the facts it carries for programs."""

import pytest

from coexistence import (
    AcquireTimeout,
    CoexistenceError,
    CommandTimeout,
    ConfigError,
    DeadlockDetected,
    DeadlockMember,
    GuardNotHeld,
    GuardRevoked,
    LockOrderViolation,
    LoopBlocked,
    Problem,
    SharedResources,
    WireClosed,
    WireDisconnected,
    WireInUse,
    WouldDeadlock,
)

PORT = "/dev/ttyUSB0"

MESSAGES = [
    (
        AcquireTimeout(PORT, "power_v2", 2.0, "laser", 12.34, ["stage", "shadow"]),
        "'power_v2' did not get /dev/ttyUSB0 within 2 s: it is held by 'laser' for 12.3 s; also waiting: stage, "
        "shadow. Give a longer timeout, or make the holder's block shorter.",
    ),
    (
        AcquireTimeout(PORT, "power_v2", 0.25, None, 0.0),
        "'power_v2' did not get /dev/ttyUSB0 within 0.25 s: others are ahead in line. "
        "Give a longer timeout, or make the holder's block shorter.",
    ),
    (
        CommandTimeout(PORT, "power_v2", b"D?\n", 1.0, sent=True),
        "no complete reply to b'D?\\n' ('power_v2' on /dev/ttyUSB0) within 1 s: nothing came. "
        "Check that the instrument is on, its line settings and terminator, or give a longer timeout.",
    ),
    (
        CommandTimeout(PORT, "power_v2", b"D?\n", 1.0, sent=True, received=b"5E-"),
        "no complete reply to b'D?\\n' ('power_v2' on /dev/ttyUSB0) within 1 s: only b'5E-' came. "
        "Check that the instrument is on, its line settings and terminator, or give a longer timeout.",
    ),
    (
        CommandTimeout(PORT, "power_v2", b"D?\n", 1.0, sent=False),
        "b'D?\\n' ('power_v2' on /dev/ttyUSB0) was not sent within 1 s: its deadline passed while it waited.",
    ),
    (
        WireDisconnected(PORT, "there is no such port", remedy="Present ports: /dev/ttyS0."),
        "/dev/ttyUSB0 is not connected: there is no such port. Present ports: /dev/ttyS0.",
    ),
    (
        WireDisconnected(PORT, "it was lost", owner="power_v2"),
        "/dev/ttyUSB0 ('power_v2') is not connected: it was lost.",
    ),
    (
        WireInUse(PORT, "process 4711 (python)"),
        "/dev/ttyUSB0 is in use by process 4711 (python). Close it there, or share it: within one process take the "
        "wire from the same SerialPortPool or VisaSessionManager.",
    ),
    (
        WireInUse(PORT),
        "/dev/ttyUSB0 is in use by another program. Close it there, or share it: within one process take the wire "
        "from the same SerialPortPool or VisaSessionManager.",
    ),
    (
        GuardRevoked(PORT, "power_v2", 31.4, "it exceeded its max_hold of 30 s while others waited"),
        "the hold of 'power_v2' on /dev/ttyUSB0 was ended after 31.4 s: it exceeded its max_hold of 30 s while others "
        "waited. Acquire the wire again; what was under way may not have reached the instrument.",
    ),
    (
        GuardNotHeld(PORT, "power_v2"),
        "the guard of 'power_v2' on /dev/ttyUSB0 does not hold the wire. Use it inside its 'with' block "
        "('async with' for acquire_async), and only there.",
    ),
    (WireClosed(PORT), "/dev/ttyUSB0 has been closed. Open it again before using it."),
    (
        WouldDeadlock(PORT, "power_v2", "power_v4"),
        "'power_v2' asks for /dev/ttyUSB0 on an event loop's thread, but 'power_v4', which is ahead, can only let go "
        "when that loop runs. Use acquire_async or query_async here, or call from another thread.",
    ),
    (
        LoopBlocked(PORT, "power_v2", 0.0512, "laser"),
        "'power_v2' blocked an event loop for 0.0512 s waiting for /dev/ttyUSB0, held by 'laser'. "
        "Use acquire_async or query_async here, or call from another thread.",
    ),
    (
        LockOrderViolation(PORT, "power_v2", ["/dev/ttyUSB1", "GPIB0"]),
        "'power_v2' asks for /dev/ttyUSB0 while holding /dev/ttyUSB1, GPIB0, which comes later in the order (serial "
        "before VISA, then by name). Take several wires with SharedResources.acquire_all, or release first.",
    ),
    (
        DeadlockDetected(
            [DeadlockMember("scan", PORT, (("GPIB0", 1.5),)), DeadlockMember("logger", "GPIB0", ((PORT, 0.25),))]
        ),
        "deadlock: 'scan' holds GPIB0 for 1.5 s and waits for /dev/ttyUSB0; 'logger' holds /dev/ttyUSB0 for 0.25 s "
        "and waits for GPIB0. Take several wires with SharedResources.acquire_all.",
    ),
    (
        ConfigError(Problem("baud_rate is wrong", "try 9600", "config.toml:3"), "parity is wrong"),
        "baud_rate is wrong / try 9600 / config.toml:3\nparity is wrong",
    ),
]


@pytest.mark.parametrize(("error", "message"), MESSAGES, ids=[type(error).__name__ for error, _ in MESSAGES])
def test_message_says_what_happened_who_holds_what_and_what_to_do(error, message):
    assert str(error) == message
    assert isinstance(error, CoexistenceError)


def test_errors_are_also_the_builtin_errors_that_programs_catch():
    assert issubclass(AcquireTimeout, TimeoutError)
    assert issubclass(CommandTimeout, TimeoutError)
    assert issubclass(WireDisconnected, ConnectionError)
    assert issubclass(ConfigError, ValueError)


def test_facts_are_attributes():
    error = AcquireTimeout(PORT, "power_v2", 2.0, "laser", 12.34, ["stage"])
    assert (error.wire, error.owner, error.waited) == (PORT, "power_v2", 2.0)
    assert (error.held_by, error.held_for, error.queue) == ("laser", 12.34, ("stage",))
    error = CommandTimeout(PORT, "power_v2", b"D?\n", 1.0, sent=True, received=b"5")
    assert (error.command, error.timeout, error.sent, error.received) == (b"D?\n", 1.0, True, b"5")
    error = WireInUse(PORT, "process 4711 (python)")
    assert (error.wire, error.used_by) == (PORT, "process 4711 (python)")


def test_time_limit_that_is_no_number_is_refused_before_anything_is_asked(port):
    with pytest.raises(ConfigError, match="timeout must be between 0"):
        port.query(b"Q1?\n", owner="meter", timeout="1")
    with (
        pytest.raises(ConfigError, match="timeout must be between 0"),
        SharedResources().acquire_all([port], owner="meter", timeout="1"),
    ):
        pass
    assert port.log == []
