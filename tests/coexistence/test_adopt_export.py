"""A shared wire as a virtual port for any program."""

import os
import select
import subprocess
import sys
import threading
import time
import tty

import psutil
import pytest
import serial
from people import Person
from proofs import ctrl_c_in
from ptys import instrument_and_port

from coexistence import Arbiter, ConfigError
from coexistence.adoption.lease import Lease

PROGRAM = """
import serial, sys
port = serial.Serial(sys.argv[1], timeout=20.0, exclusive=True)
for number in range(int(sys.argv[2])):
    port.write(b"Qp%d?\\n" % number)
    reply = port.readline()
    assert reply == b"Ap%d\\n" % number, (number, reply)
print("right")
"""


def run_program(path: str, number: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, path, str(number)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_another_program_and_tasks_share_the_wire(port, instrument):
    with port.export("program") as exported:
        assert os.path.exists(exported.path)
        for _ in range(2):  # an exclusive opening must not outlive the program that made it
            program = run_program(exported.path, 100)
            number = 0
            while program.poll() is None or number < 10:
                assert port.query(b"Qt%d?\n" % number, owner="here") == b"At%d" % number
                number += 1
            assert program.stdout.read() == b"right\n"
            program.stdout.close()
    assert not os.path.exists(exported.path)
    assert port.stats.owners["program"].exchanges == 200
    assert instrument.left_over == 0


def test_a_program_that_is_no_python_can_use_it(port):
    with port.export("shell") as exported, open(exported.path, "r+b", buffering=0) as plain:
        tty.setraw(plain)
        plain.write(b"Q5?\n")
        assert select.select([plain], [], [], 20.0)[0]
        assert plain.read(100) == b"A5\n"


def test_a_command_without_reply_keeps_the_wire_for_the_quiet_time_only(port, instrument, wait_for):
    with port.export("program", quiet_time=0.15) as exported, serial.Serial(exported.path) as program:
        program.write(b"move\n")
        wait_for(lambda: instrument.received)
        assert port.query(b"Q1?\n", owner="other", timeout=8.0) == b"A1"  # the longest lease is 10 s
    assert port.stats.owners["program"].hold.max >= 0.15


def test_a_reply_after_the_lease_still_reaches_the_program(port, instrument):
    instrument.delay = 0.3
    with port.export("program") as exported, serial.Serial(exported.path, timeout=20.0) as program:
        program.write(b"Q1?\n")
        assert program.readline() == b"A1\n"


def test_the_link_stands_for_the_port_while_it_exists(port, tmp_path):
    link = tmp_path / "shared"
    for _ in range(2):
        with port.export("program", link=str(link)) as exported:
            assert exported.path == str(link)
            with serial.Serial(str(link), timeout=20.0) as program:
                program.write(b"Q1?\n")
                assert program.readline() == b"A1\n"
        assert not link.is_symlink()
    link.write_text("mine")
    with pytest.raises(ConfigError, match="exists and is no symbolic link"):
        port.export("program", link=str(link))
    assert link.read_text() == "mine"
    with pytest.raises(ConfigError, match="there is no lease rule 'speed'"):
        port.export("program", speed=3)
    with pytest.raises(ConfigError, match="must be named"):
        port.export("")


def test_closing_does_not_wait_for_a_write_in_line_and_may_be_done_again_after_ctrl_c(port, tmp_path):
    link = tmp_path / "ttyShared"
    exported = port.export("program", link=str(link), acquire_timeout=60.0)
    with port.acquire("holder"), open(exported.path, "wb", buffering=0) as program:
        program.write(b"Q1?\n")
        while not len(port._arbiter):
            time.sleep(0.001)
        with ctrl_c_in("cancel_write"):
            exported.close()
        began = time.monotonic()
        exported.close()
        assert time.monotonic() - began < 20
    assert not os.path.lexists(link)


def test_closing_does_not_wait_for_a_write_that_is_about_to_join_the_line(port, monkeypatch):
    about, go_on, cancelled = threading.Event(), threading.Event(), threading.Event()
    acquire_for, cancel_write = Arbiter.acquire_for, Lease.cancel_write

    def late(*arguments: object) -> None:
        about.set()
        go_on.wait()
        acquire_for(*arguments)

    def cancel(lease: Lease) -> None:
        cancel_write(lease)
        cancelled.set()

    monkeypatch.setattr(Arbiter, "acquire_for", late)
    monkeypatch.setattr(Lease, "cancel_write", cancel)
    exported = port.export("program", acquire_timeout=60.0)
    with port.acquire("holder"), open(exported.path, "wb", buffering=0) as program:
        program.write(b"Q1?\n")
        assert about.wait(5.0)
        closing = Person(exported.close)
        assert cancelled.wait(5.0)
        go_on.set()
        closing.result(20.0)


def test_a_program_that_waits_in_vain_is_told_in_the_log(port, caplog, wait_for):
    with (
        port.export("program", acquire_timeout=0.1) as exported,
        serial.Serial(exported.path, timeout=0.3) as program,
        port.acquire("scan"),
    ):
        program.write(b"Q1?\n")
        assert program.readline() == b""
        wait_for(lambda: "was not sent" in caplog.text)
    assert "held by 'scan'" in caplog.text


def test_an_idle_export_uses_no_time(port):
    with port.export("program") as exported, serial.Serial(exported.path, timeout=20.0) as program:
        program.write(b"Q1?\n")
        assert program.readline() == b"A1\n"
        time.sleep(0.2)
        before = psutil.Process().num_ctx_switches().voluntary
        threading.Event().wait(0.5)
        assert psutil.Process().num_ctx_switches().voluntary - before < 20


def test_the_export_of_a_bus_takes_only_its_own_lines(port, instrument):
    instrument.answer = lambda command: command + b" done\n"
    own = {"accept": lambda line: line.startswith(b"2")}
    with port.export("program", **own) as exported, serial.Serial(exported.path, timeout=20.0) as program:
        program.write(b"2go\n")
        instrument.say(b"3 button\n")
        assert program.readline() == b"2go done\n"


def test_pulling_the_cable_leaves_the_virtual_port_in_place(wait_for, tmp_path):
    with (
        instrument_and_port(link=tmp_path / "meter") as (instrument, port),
        port.export("program") as exported,
        serial.Serial(exported.path, timeout=3.0) as program,
    ):
        program.write(b"Q1?\n")
        assert program.readline() == b"A1\n"
        instrument.kill()
        wait_for(lambda: (program.write(b"Q2?\n"), not port.connected)[1])
        instrument.plug_in()
        wait_for(lambda: port.connected)
        program.reset_input_buffer()
        deadline = time.perf_counter() + 30.0
        reply = b""
        while reply != b"A3\n" and time.perf_counter() < deadline:
            program.write(b"Q3?\n")
            reply = program.readline()
        assert reply == b"A3\n"
