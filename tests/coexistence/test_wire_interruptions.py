"""A signal whose handler raises (Ctrl-C) may strike between any two steps of the main thread."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(name: str) -> None:
    program = Path(__file__).with_name("interruptions.py")
    done = subprocess.run([sys.executable, str(program), name], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_no_wire_stays_held_and_no_waiter_is_lost_when_signals_strike_acquisitions():
    run("acquisitions")


@pytest.mark.parametrize("kind", ["query", "repeatable query", "transaction", "strays"])
def test_single_exchanges_never_leave_the_wire_held_nor_a_reply_to_others(kind):
    run(kind)


def test_guards_never_leave_a_reply_to_others():
    run("guards")


def test_free_wire_is_taken_and_released_without_any_system_call(tmp_path):
    """Counted by strace between two markers, with and without the acquisitions."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    program = textwrap.dedent(
        """
        import os
        from coexistence import Arbiter

        arbiter = Arbiter("wire")

        def take():
            for _ in range(2000):
                with arbiter.acquire("meter"):
                    pass

        take()
        os.stat("/begin") if os.path.lexists("/begin") else None
        take()
        os.path.lexists("/end")
        """
    )
    trace = tmp_path / "trace"
    done = subprocess.run(
        [strace, "-f", "-o", str(trace), sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"strace cannot trace here: {done.stderr[-200:]}")
    lines = trace.read_text().splitlines()
    begin = max(number for number, line in enumerate(lines) if '"/begin"' in line)
    end = max(number for number, line in enumerate(lines) if '"/end"' in line)
    between = lines[begin + 1 : end]
    # the statistics of 2000 holds may need memory now and then
    assert len(between) <= 20, between[:40]
    assert not [line for line in between if "futex" in line]
