"""IPython as a real process on a terminal."""

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

pytestmark = pytest.mark.timeout(120)

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")

LEAVING_S = 10  # a prompt is left in under 3 s; a busy machine may take longer


class Shell:
    """Types at a prompt and reads what it answers."""

    def __init__(self, data_dir: Path, home: Path) -> None:
        command = ["-c", "from profiles.cli import main; main()", "shell", "--simulate", "--data-dir", str(data_dir)]
        environment = {**os.environ, "IPYTHONDIR": str(home), "TERM": "dumb"}
        self.process = pexpect.spawn(
            sys.executable, command, env=environment, encoding="utf-8", timeout=30, dimensions=(50, 200)
        )
        self._number = 1
        self.banner = self._until_prompt()

    def _until_prompt(self) -> str:
        self.process.expect(rf"In \[{self._number}\]: ")
        return ESCAPES.sub("", self.process.before or "")

    def type(self, line: str) -> str:
        self.process.sendline(line)
        self._number += 1
        return self._until_prompt()

    def leave(self) -> float:
        """Return the time the exit took in seconds."""
        began = time.monotonic()
        self.process.sendline("exit")
        self.process.expect(pexpect.EOF)
        self.process.close()
        return time.monotonic() - began


@pytest.fixture
def shell(data_dir: Path, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(data_dir, tmp_path)
    yield shell
    shell.process.close(force=True)


@pytest.mark.server
def test_a_prompt_has_the_sessions_names_for_both_generations(shell: Shell):
    assert "4 of 4 instruments" in shell.banner
    assert "power_v2         v2  Newport1830C" in shell.banner
    assert re.search(
        r"Names: bp, bps, bpp, .*power_v2, power_v4, hwp, polarizer, session, RE, devices, catalog", shell.banner
    )
    shell.type("%mov polarizer 45")
    assert re.search(r"polarizer +(45|44\.99\d*|45\.0\d*) \(sent to 45\)", shell.type("%wa"))
    shell.type("%movr polarizer -15")
    assert re.search(r"polarizer +(30|29\.99\d*|30\.0\d*) \(sent to 30\)", shell.type("%wa polarizer"))
    assert re.search(r"power_v2_power +0\.000\d+\s+power_v4_power +0\.000\d+", shell.type("%ct"))
    assert "'power_v4_power': {'value':" in shell.type("await power_v4.read()")
    assert "'success'" in shell.type("RE(malus([power_v2, power_v4], polarizer, num=4)).exit_status")
    assert "<BlueskyRun" in shell.type("catalog[-1]")
    assert shell.leave() < LEAVING_S
    assert shell.process.exitstatus == 0


def test_ctrl_c_at_the_prompt_pauses_and_leaving_aborts(shell: Shell):
    shell.process.sendline("print('go'); RE(bps.sleep(60))")
    shell.process.expect("\ngo")
    time.sleep(0.3)
    shell.process.sendintr()
    shell.process.expect("deferred pause")
    time.sleep(0.3)  # the RunEngine takes two within a tenth of a second for one
    shell.process.sendintr()
    shell._number += 1
    assert "RE.resume()" in shell._until_prompt()
    assert "'paused'" in shell.type("str(RE.state)")
    assert shell.leave() < LEAVING_S
    assert shell.process.exitstatus == 0
